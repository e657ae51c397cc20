"""The search for hyper-parameters: a file says what to try, Optuna keeps who tries what."""
