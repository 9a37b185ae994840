#!/usr/bin/env bash
# Builds the native core with driver.c and runs it: with the address and undefined-behaviour sanitizers, with the thread
# sanitizer, and plainly at -O3 with the benchmark's rules (only this one has the vector code). run.sh [ROUNDS [SEED [CALLS]]]; 0 rounds: only
# the start of the thread pool and the random calls.
set -euo pipefail
shopt -s extglob
cd "$(dirname "$0")/../.."
rounds=${1:-4} seed=${2:-1} calls=${3:-3000}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
flags=(-std=c11 -O2 -g1 -ffp-contract=off -fno-math-errno -Wall -Wextra -Werror -pthread -Icsrc)
export ASAN_OPTIONS=exitcode=99 UBSAN_OPTIONS=exitcode=99:print_stacktrace=1 TSAN_OPTIONS=exitcode=99

# Runs a program. A thread sanitizer that cannot live with address space randomisation gets none.
start() { # OUTPUT PROGRAM ARGUMENT...
  local status=0
  timeout 3600 "${@:2}" >"$1" 2>&1 || status=$?
  if grep -q 'unexpected memory mapping' "$1"; then
    status=0
    timeout 3600 setarch "$(uname -m)" -R "${@:2}" >"$1" 2>&1 || status=$?
  fi
  return "$status"
}

# Runs a driver, whose last line is "N passed, M failed" and whose own exit codes are 0 and 1.
check() { # BUILD ARGUMENT...
  local out="$work/$1.out" status=0 good=0 bad=0
  start "$out" "$work/$1" "${@:2}" || status=$?
  if [[ $(tail -n 1 "$out") =~ ^([0-9]+)\ passed,\ ([0-9]+)\ failed$ ]]; then
    good=${BASH_REMATCH[1]} bad=${BASH_REMATCH[2]}
  fi
  if ((status != 0)); then head -n 80 "$out"; fi
  if ((status != 0 && !(status == 1 && bad > 0))) || ((status == 0 && good == 0)); then bad=$((bad + 1)); fi
  echo "$1, driver ${*:2}: $(tail -n 2 "$out" | grep -v FAILED | paste -sd ';'); exit code $status"
  echo "$good $bad 0" >>"$work/counts"
}

# One build, from the question whether there can be one to the last run.
build() { # BUILD LENGTH FLAG...
  local program="$work/$1" probe="$work/$1.probe"
  if ! echo 'int main(void) { return 0; }' | gcc "${@:3}" -x c - -o "$probe" >"$probe.out" 2>&1 ||
    ! start "$probe.out" "$probe"; then
    echo "$1: skipped: $(tail -n 1 "$probe.out")"
    echo "0 0 1" >>"$work/counts"
  elif ! gcc "${flags[@]}" "${@:3}" csrc/!(ptx|wasm).c tests/native/{driver,bind,calls,rows,steps,tensors,vectors}.c -o "$program" -lm; then
    echo "$1: does not compile"
    echo "0 1 0" >>"$work/counts"
  else
    echo "1 0 0" >>"$work/counts" # it compiles
    for k in 1 2 3 4 5; do check "$1" 0 0 "$k"; done
    check "$1" "$rounds" "$2" "$seed" "$calls"
  fi
}

build address 100001 -fsanitize=address,undefined -fno-sanitize-recover=all &
build thread 10001 -fsanitize=thread &
build plain 300001 -O3 -DFS_BENCH &
wait
passed=0 failed=0 skipped=0 finished=0
while read -r good bad none; do
  passed=$((passed + good)) failed=$((failed + bad)) skipped=$((skipped + none)) finished=$((finished + 1))
done <"$work/counts"
if ((skipped > 0)); then
  echo "$passed passed, $failed failed, $skipped skipped"
else
  echo "$passed passed, $failed failed"
fi
((failed == 0))
