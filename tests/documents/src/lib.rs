//! Nothing: the code and the commands in README and docs are tested here.
