// Package service runs walsvc as a process of its own: for the demonstration,
// which kills it, for benchmarks, which must not share a process with what they
// measure, and for tests.
package service
