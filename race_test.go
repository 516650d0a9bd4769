//go:build race

package apikey_test

// The race detector lets pools forget on purpose, so allocations mean nothing.
func init() { raceDetector = true }
