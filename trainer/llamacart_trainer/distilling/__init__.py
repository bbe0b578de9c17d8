"""From a wish to a cartridge: a recipe folder, the answers, the figures."""
