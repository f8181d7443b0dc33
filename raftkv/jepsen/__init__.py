"""The Jepsen-style suite: clients, faults and checks, against a cluster of real processes. See docs/jepsen.md.

`runner`     one run, from the first process to the verdict; `raftkv jepsen` is its command line.
`testbed`    the cluster: nodes, a proxy on every link, the clocks and disks that can be made to fail.
`schedule`   when which fault is on; `nemesis` what a fault is, `nemeses` all of them.
`worker`     one client; `workload` what clients do, `workloads` all of them.
`recorder`   what is remembered; `report` what is made of it.
`node`       the program that nodes run: `raftkv serve` with a clock and a disk that can be told to fail.
"""
