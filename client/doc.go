// Package client is the SDK of walsvc.
package client
