#!/usr/bin/env bash
# Every measurement that needs a GPU, in one run of a few minutes, and the same training on GPU and CPU.
#
#     pip install -e ".[bench]"; bash benchmarks/gpu.sh [DEVICE]     DEVICE: cuda; cpu only to see that it runs
set -euo pipefail
cd "$(dirname "$0")/.."
device=${1:-cuda}
results=results/gpu
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1
mkdir -p $results
few=$([ "$device" = cpu ] && echo "--rounds 1" || echo "--rounds 5")

section() { printf '\n== %s\n' "$*"; }
section "training step over the bare step: fp32, compiled, bf16, bf16 compiled"
python3 benchmarks/training.py --device "$device" $few
python3 benchmarks/training.py --device "$device" $few --compile
python3 benchmarks/training.py --device "$device" $few --precision bf16 --batch_size 512
python3 benchmarks/training.py --device "$device" $few --precision bf16 --batch_size 512 --compile
section "training step against recipes that deform waveforms"
python3 benchmarks/training_peers.py --device "$device" --rounds 2 --steps 1 --workers "$(nproc)"
section "training from the disk"
mkdir -p $results/frames
python3 benchmarks/training_from_disk.py $results/frames --device "$device" --gigabytes 2 --rounds 5
rm -r $results/frames
section "deformations, windows a second"
python3 benchmarks/deformations.py --device "$device"
section "mining"
python3 benchmarks/mining.py --device "$device"
section "indexing a folder"
[ -d $results/sounds ] ||
    python3 -c "from cochlea_sb.synthetic.library import write_library; write_library('$results/sounds')"
python3 benchmarks/embedding.py $results/sounds --model cochlea_sb/pretrained --device "$device" --plain_sounds 50
section "the demo's training, measured on held-out sounds"
time python3 recipes/train.py hparams/cnn.yaml --device "$device" --output_folder $results/cnn-"$device" \
    --number_of_epochs 5 --warm_up_steps 30 --batch_size 96 --channels "[16, 32, 64, 128]" --n_sources 300 \
    --synthetic_share 0.3 --noprogressbar
python3 recipes/evaluate.py hparams/cnn.yaml --device "$device" --output_folder $results/cnn-"$device" --robustness "[]"
section "the same embeddings on GPU and CPU"
python3 - "$device" <<'PYTHON'
import sys

import torch

from cochlea_sb import AudioEncoder

wavs = 0.1 * torch.randn(64, 48000, generator=torch.Generator().manual_seed(0))
one, other = (AudioEncoder.from_hparams(run_opts={"device": device}).encode_batch(wavs).cpu() for device in (sys.argv[1], "cpu"))
print("largest difference of a component:", float((one - other).abs().max()))
PYTHON
