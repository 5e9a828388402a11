"""The prompt-able U-Net: windowed attention steered by class prompts."""
