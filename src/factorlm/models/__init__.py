"""Models: fields, backbone and head joined into one recommender."""
