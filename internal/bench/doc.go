// Package bench measures: the disk below walsvc, the naive loops that walsvc is
// compared with, and walsvc itself through its own client.
//
// One rule holds for everything here: what measures must not be what is
// measured. A load generator takes its records from one buffer that was there
// before, records a latency into a histogram of fixed size, and does nothing
// else per append.
//
//	Disk          durable writes of growing size, four ways: walctl disk
//	Loop          a mutex, a write, an fsync: what walsvc has to beat
//	Echo          bare gRPC with raw bytes: what no service behind gRPC can beat
//	Append        callers, a pipeline or an open loop, through package client
//	Replay        everything back, in order, through package client
//	Openings      a small journal and a large one, after SIGKILL and from cold
//	Soak          a service in use for long: is it flat?
//	Compare       walsvc and the machine in turn: the quick look
//	CompareGoals  the same for everything that is to be reached
//	Ladder        the engine's ideas one by one, on real and modelled disks
//
// Records are cut from the documents in testdata, never made of zeros or
// random bytes: both would lie about compression.
//
// Durations run on the clock, so a figure is as good as the machine was quiet.
// Ratios belong to one run.
package bench
