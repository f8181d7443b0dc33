"""One node as a process: the driver, where time, disk, network and the two pure packages meet, and the services on top.

settings   what a node is told            app        builds a node from settings and runs it
node       the driver                     proposals  writes on their way through the log
barriers   linearizable reads on their way            cluster_time  the stamps that a leader gives
requests   runs client operations, forwards them      wire          protobuf to commands and back
services/  the gRPC faces
"""
