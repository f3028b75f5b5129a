"""One file for each kind of dataset: an image folder, digits, torchvision's sets."""
