"""Features of a folder of images by a pretrained network, as a file."""
