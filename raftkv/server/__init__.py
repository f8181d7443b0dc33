"""One node as a process: the driver, where time, disk, network and the two pure packages meet, and the services on top.

settings   what a node is told            app        builds a node from settings and runs it
node       the driver                     proposals  writes on their way through the log
barriers   linearizable reads on their way            cluster_time  the stamps that a leader gives
requests   runs client operations, forwards them      wire          protobuf to commands and back
queries    what is answered without a proposal        wire_range, wire_txn, wire_locks: the same for one kind
quota      what is refused when the state is large    upkeep     what the leader proposes by itself
fitness    what speaks against leading
services/  the gRPC faces
"""
