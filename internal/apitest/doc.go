// Package apitest holds the tests of package apikey that share a fixture: a program
// with a store, peppers, a Manager and a Verifier, which each test changes to what it
// needs (env_test.go). They use exported names alone, as any other package would.
package apitest
