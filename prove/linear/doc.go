// Package linear is tests alone: it lets concurrent clients loose on walsvc,
// over gRPC, while it is killed, cut off, paused, and given disks that fail or
// lose power, writes down what each client asked and heard, and asks porcupine
// whether there is an order in which all of it is right.
package linear
