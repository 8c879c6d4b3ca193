"""What evaluations share: whom they measure, on which images, and what several of them train."""
