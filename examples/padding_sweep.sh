#!/usr/bin/env bash
# The padding study, from annotated photos to accuracies, a report and a map: a loop over paddings to copy and change.
#
#   bash examples/padding_sweep.sh                              # demo/shelf -> demo
#   PADDINGS="0 10 25" bash examples/padding_sweep.sh my_photos my_study
#
# The model is lite0, which takes two thirds of the time of the default, lite2. Without --model lite0 below it is lite2, of 260 px: then
# write 260 for 224 as well.
#
# Padding 20 is also embedded with a larger input, so that the object keeps its pixels: what padding does is then told apart as
# context and resolution. SHARP="20 40" does so for more, SHARP= for none.
#
# DATA holds images/ and annotations_sku.json (or train.json, val.json, test.json). Run again, it goes on where it was.
set -euo pipefail

DATA=${1:-demo/shelf}
OUT=${2:-demo}
PADDINGS=${PADDINGS:-0 5 10 20 40}
SHARP=${SHARP-20}
PYTHON=${PYTHON:-python3}
NAME=$(basename "$DATA")
SUITE=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

run() { # one of the suite's scripts, named before it runs
    echo "== $1" >&2
    "$PYTHON" "$SUITE/$1" "${@:2}"
}

annotations=("$DATA"/annotations_sku.json)
[ -e "${annotations[0]}" ] || annotations=("$DATA"/{train,val,test}.json)
read -ra paddings <<<"$PADDINGS"

run crop.py --json_path "${annotations[@]}" --image_folder "$DATA/images" \
    --padding_percent "${paddings[@]}" --output_root "$OUT/crops/pad_{padding}"

folders=()
for padding in "${paddings[@]}"; do folders+=("$OUT/crops/pad_$padding"); done
run extract_embedding.py --model lite0 --data_root "${folders[@]}" --company_name "$NAME" --output_root "$OUT/embeddings" >/dev/null

sets=()
for padding in "${paddings[@]}"; do sets+=("$OUT/embeddings/${NAME}_${padding}"_*.npz); done

plain=("${sets[@]}")
for padding in $SHARP; do # 224 px a side of the object, cut out of the photos anew
    [[ " ${paddings[*]} " == *" $padding "* ]] || continue
    size=$(((224 * (100 + 2 * padding) + 50) / 100)) # rounded
    run extract_embedding.py --model lite0 --json_path "${annotations[@]}" --image_folder "$DATA/images" --padding_percent "$padding" \
        --object_px 224 --image_size "$size" --company_name "$NAME" --output_root "$OUT/embeddings" >/dev/null
    sets+=("$OUT/embeddings/${NAME}_$padding@$size"_*.npz)
done

# the matrix on the screen; a line for each pair, to grep, in the file
run evaluate_combo.py --train_npz "${sets[@]}" --test_npz "${sets[@]}" | tee "$OUT/accuracies.txt" | sed '/=> acc: /d' | cat -s

run npz_to_parquet.py --root "${plain[@]}" --out "$OUT/embeddings.parquet" --projection umap --neighbors 10 --thumbnails 96

cat <<END

Open   $OUT/report.html               which combinations are better, and how sure that is (written by what follows)
       $OUT/results.txt, results.csv  the same as text and as a table
       $OUT/accuracies.txt            what stands above, with a line for each pair of paddings
Look   python view.py $OUT/embeddings.parquet     (pip install -r requirements-extra.txt)

END

# chosen on the val photos, scored once on the test photos; last, so that the verdict stands at the end
run greedy_combo_eval.py --train_npz "${sets[@]}" --val_npz "${sets[@]}" --test_npz "${sets[@]}" \
    --combination_size 1-2 --results "$OUT/results.txt" --report "$OUT/report.html"
