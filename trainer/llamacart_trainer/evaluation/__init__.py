"""What a cartridge does on texts it was not fitted on, in figures with confidence intervals."""
