#!/bin/sh
# Builds target/debian/runner-master_VERSION_ARCH.deb. Needs cargo-deb (cargo install cargo-deb).
#   packaging/build-deb.sh            the package to give away
#   packaging/build-deb.sh --quick    the same with the development binaries, for tests
set -eu
cd "$(dirname "$0")/.."

profile=release folder=release compress=
if [ "${1-}" = --quick ]; then
    profile=dev folder=debug compress=--fast
fi

cargo build --locked --profile "$profile" --bins

# The completions come from the same definition as the command line itself.
completions=target/completions
mkdir -p "$completions"
for shell in bash zsh fish; do
    "target/$folder/runnerctl" completions "$shell" >"$completions/runnerctl.$shell"
done

cargo deb --no-build --profile "$profile" --quiet $compress
