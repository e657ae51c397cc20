"""Three walk-throughs: scripts that open as notebooks."""
