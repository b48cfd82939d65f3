"""A shell script that joins two network namespaces by a cable, to play two machines on one: `bash -c TWO_MACHINES bash COMMAND ...`.

The command runs on the first machine, 10.9.0.1; $SECOND is a process on the second one, 10.9.0.2, to be entered with
`nsenter --net --target $SECOND`. All ports are the same on both. Needs a network namespace of its own (`unshare -n`), and root.
"""

TWO_MACHINES = """
set -e
ip link set lo up
ip link add left type veth peer name right
unshare --net sleep 1000 &
sleep 1
ip link set right netns $!
ip addr add 10.9.0.1/24 dev left
ip link set left up
ip route add default dev left
nsenter --net --target $! sh -c 'ip addr add 10.9.0.2/24 dev right; ip link set right up; ip link set lo up; ip route add default dev right'
export SECOND=$!
exec "$@"
"""
