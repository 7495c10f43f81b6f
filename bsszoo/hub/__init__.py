"""Publishing networks on the Hugging Face Hub: what is pushed, the model card, pushing, pulling, and looking."""
