// Package walsvcv1 is the API of the walsvc write-ahead-log service, generated
// from the .proto files beside it. What is said there about units, bounds, zero
// values and reasons of refusals holds for every client in every language; Go
// programs use package client instead, which knows what to do with them.
package walsvcv1
