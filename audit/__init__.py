"""What is wrong with a folder of pictures: labels, copies, odd ones, the split."""
