// The network, beside the page: a picture's file in, probabilities out. It works away from the page
// so that the page goes on answering the user.
import * as ort from "./runtime/ort.js";

const MOST_BYTES = 100e6;
const MOST_PIXELS = 100e6;
const WHOLE = 25e6; // pixels; of larger pictures the browser makes smaller ones, to spare memory
const BAND = 4e6; // pixels that are read at once: a phone's canvas ends at 16 million

let session;
let outputs;

class Told extends Error {} // a sentence for the user

async function start(size) {
  ort.env.wasm.wasmPaths = { wasm: new URL("./runtime/ort.wasm", import.meta.url).href };
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;
  ort.env.logLevel = "error";
  const model = await fetched(new URL("./model.onnx", import.meta.url), size);
  session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"], logSeverityLevel: 3 });
  outputs = session.outputNames;
}

async function fetched(url, size) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Told(`model.onnx is not beside the page (status ${answer.status}).`);
  const parts = [];
  let had = 0;
  const reader = answer.body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    had += value.length;
    self.postMessage({ loaded: had, of: size });
  }
  const whole = new Uint8Array(had);
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

// Width and height as a file's first bytes say them, before anything is decoded; null where unknown.
function sizeOf(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const text = (at, n) => String.fromCharCode(...bytes.subarray(at, at + n));
  if (bytes.length > 24 && text(1, 3) === "PNG") return [view.getUint32(16), view.getUint32(20)];
  if (bytes.length > 10 && text(0, 3) === "GIF") return [view.getUint16(6, true), view.getUint16(8, true)];
  if (bytes.length > 26 && text(0, 2) === "BM") return [view.getInt32(18, true), Math.abs(view.getInt32(22, true))];
  if (bytes.length > 30 && text(0, 4) === "RIFF" && text(8, 4) === "WEBP") {
    const three = (at) => 1 + view.getUint16(at, true) + (bytes[at + 2] << 16);
    if (text(12, 4) === "VP8X") return [three(24), three(27)];
    if (text(12, 4) === "VP8 ") return [view.getUint16(26, true) & 0x3fff, view.getUint16(28, true) & 0x3fff];
    if (text(12, 4) === "VP8L") {
      const bits = view.getUint32(21, true);
      return [1 + (bits & 0x3fff), 1 + ((bits >> 14) & 0x3fff)];
    }
  }
  if (bytes.length > 4 && view.getUint16(0) === 0xffd8) {
    let at = 2;
    while (at + 9 < bytes.length && bytes[at] === 0xff) {
      const marker = bytes[at + 1];
      const isFrame = marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker);
      if (isFrame) return [view.getUint16(at + 7), view.getUint16(at + 5)];
      at += marker === 0xff ? 1 : 2 + view.getUint16(at + 2);
    }
  }
  return null;
}

function checked(size) {
  if (size && size[0] * size[1] > MOST_PIXELS) {
    const [w, h] = size.map((side) => side.toLocaleString("en"));
    throw new Told(`is ${w} × ${h} pixels: more than the ${MOST_PIXELS / 1e6} million that are read here.`);
  }
}

async function bitmapOf(file) {
  if (!file.size) throw new Told("is empty.");
  if (file.size > MOST_BYTES) {
    throw new Told(`is ${Math.round(file.size / 1e6)} MB: more than the ${MOST_BYTES / 1e6} MB that are read here.`);
  }
  checked(sizeOf(new Uint8Array(await file.slice(0, 1 << 20).arrayBuffer())));
  let bitmap;
  try {
    // As training reads pictures: turned by EXIF, without the colour profile.
    bitmap = await createImageBitmap(file, {
      imageOrientation: "from-image", colorSpaceConversion: "none", premultiplyAlpha: "none",
    });
  } catch {
    throw new Told("is no picture that this browser can read.");
  }
  const pixels = bitmap.width * bitmap.height;
  checked([bitmap.width, bitmap.height]);
  if (pixels <= WHOLE) return bitmap;
  const scale = Math.sqrt(WHOLE / pixels);
  const smaller = await createImageBitmap(bitmap, {
    resizeWidth: Math.max(1, Math.round(bitmap.width * scale)),
    resizeHeight: Math.max(1, Math.round(bitmap.height * scale)),
    resizeQuality: "high",
  });
  bitmap.close();
  return smaller;
}

// Pixels (h, w, 3); what is transparent is laid on white.
function pixelsOf(bitmap) {
  const { width, height } = bitmap;
  const rows = Math.max(1, Math.min(height, Math.floor(BAND / width)));
  const canvas = new OffscreenCanvas(width, rows);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (!context) throw new Told("is too wide for this browser.");
  const rgb = new Uint8Array(width * height * 3);
  let to = 0;
  for (let top = 0; top < height; top += rows) {
    const count = Math.min(rows, height - top);
    context.fillStyle = "white";
    context.fillRect(0, 0, width, rows);
    context.drawImage(bitmap, 0, -top);
    const rgba = context.getImageData(0, 0, width, count).data;
    for (let from = 0; from < rgba.length; from += 4) {
      rgb[to++] = rgba[from];
      rgb[to++] = rgba[from + 1];
      rgb[to++] = rgba[from + 2];
    }
  }
  return rgb;
}

async function answer(file) {
  const bitmap = await bitmapOf(file);
  const { width, height } = bitmap;
  const pixels = new ort.Tensor("uint8", pixelsOf(bitmap), [1, height, width, 3]);
  bitmap.close();
  const found = await session.run({ pixels });
  const unlike = outputs.includes("unlike") ? found.unlike.data[0] : null;
  return { probabilities: Array.from(found.probabilities.data), unlike };
}

self.onmessage = async ({ data }) => {
  try {
    if (data.start) {
      await start(data.size);
      self.postMessage({ ready: true });
    } else {
      self.postMessage({ id: data.id, ...(await answer(data.file)) });
    }
  } catch (error) {
    const told = error instanceof Told;
    const reason = told ? error.message : `could not be looked at (${error.message || error}).`;
    self.postMessage({ id: data.id, failed: true, starting: !!data.start, reason });
  }
};
self.postMessage({ alive: true });
