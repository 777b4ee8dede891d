# The daily commands. `just` lists them; each is one line that can be typed without just.

# List the recipes
default:
    @just --list

# All that must pass before a commit: format, lints, documentation, tests
check:
    .ci/run

# Run the tests
test *ARGS:
    cargo test --workspace {{ARGS}}

# Format the code
fmt:
    cargo fmt

# Lints, as strict as the gate's
lint:
    cargo clippy --workspace --all-targets -- -D warnings

# Run the binary, optimized
run *ARGS:
    cargo run --release -- {{ARGS}}

# Read the documentation of all crates
doc:
    cargo doc --workspace --no-deps --document-private-items --open

# Feed a reader anything for ten minutes (needs cargo-fuzz and a nightly toolchain)
fuzz TARGET:
    cargo +nightly fuzz run --fuzz-dir fuzz {{TARGET}} -- -max_total_time=600

# Make the golden numbers again (needs Python with torch and transformers)
golden *ARGS:
    python3 scripts/golden.py tests/golden {{ARGS}}
