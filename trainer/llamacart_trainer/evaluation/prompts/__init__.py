"""What stands before a prompt, the model behind it, and how near a cartridge comes to that."""
