//go:build race

package apitest

// The race detector lets pools forget on purpose, so allocations mean nothing.
func init() { raceDetector = true }
