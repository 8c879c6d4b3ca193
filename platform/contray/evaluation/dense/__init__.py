"""What an encoder is worth where every pixel counts: detection, instance and semantic segmentation on data in COCO's format."""
