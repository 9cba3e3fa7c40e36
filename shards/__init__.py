"""Pictures in a few large files, WebDataset's tars: written, found, fetched, read in any order."""
