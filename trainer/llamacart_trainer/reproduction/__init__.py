"""The paper's two experiments with its own settings, beside ablations and this project's fit."""
