#!/bin/bash
# One run by several processes on this machine, each with a GPU of its own if there are
# GPUs.
#
# Needs: the package installed; run from the root of the checkout. As many GPUs as
# processes, or none in use (JAX_PLATFORMS=cpu).
# Example: launch/local_multiprocess.sh 2 --config=configs/digits.py
# Leaves: the workdir of the run. Exit status: that of the first process that
# fails; the script names it and ends the others. On SIGTERM or Ctrl-C all processes
# save their state and end with 143; a second signal kills them.
grace=${GRACE:-10} # seconds for the others to end by themselves

case $1 in
'' | 0* | *[!0-9]*)
    echo "usage: launch/local_multiprocess.sh NUM_PROCESSES --config=FILE ..." >&2
    exit 2
    ;;
esac
count=$1
shift
port=$(python -c 'import socket
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    print(free.getsockname()[1])') || exit

pids=() stopped= status=0 deadline=
stop() {
    # With several processes, JAX catches SIGTERM but not SIGINT.
    kill "${stopped:--TERM}" "${pids[@]}" 2>/dev/null
    stopped=-KILL
}
trap stop TERM INT
for ((i = 0; i < count; i++)); do
    # Only the first process reports; output of the others goes to stderr.
    if ((i)); then exec 3>&2; else exec 3>&1; fi
    JAX_CUDA_VISIBLE_DEVICES=$i JAX_ROCM_VISIBLE_DEVICES=$i \
        python -m autodo_jax.main "$@" --coordinator="127.0.0.1:$port" \
        --num_processes="$count" --process_id="$i" >&3 3>&- &
    pids[i]=$!
done

exec 4>&2 2>/dev/null # bash itself would report each process that is killed
while ((${#pids[@]})); do
    sleep 0.2
    worst=0
    for i in "${!pids[@]}"; do
        kill -0 "${pids[i]}" && continue
        wait "${pids[i]}"
        ended=$?
        unset "pids[i]"
        # A killed process has a higher status than those that lost it.
        if ((ended > worst)); then worst=$ended number=$i; fi
    done
    if ((worst && !status)); then
        status=$worst deadline=$((SECONDS + grace))
        advice="the same command continues from the last checkpoint"
        if ((status == 2)); then advice="the command cannot be run as it is given"; fi
        # 143 after a signal is expected; each process has reported where it stopped.
        [ "$stopped$status" = -KILL143 ] ||
            echo "local_multiprocess: process $number ended with status $status," \
                "ending the others; $advice" >&4
    fi
    if [ -n "$deadline" ] && ((SECONDS >= deadline && ${#pids[@]})); then
        kill -KILL "${pids[@]}"
    fi
done
exit "$status"
