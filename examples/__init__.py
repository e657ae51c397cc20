"""Scripts of users, each run by the tests."""
