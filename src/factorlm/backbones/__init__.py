"""Language models as text encoders: the only package that imports transformers and peft."""
