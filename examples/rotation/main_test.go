package main_test

import (
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestItEndsByItselfAndNobodyIsRefused(t *testing.T) {
	out, err := exec.Command("go", "run", ".").CombinedOutput()
	require.NoError(t, err, string(out))
	require.Regexp(t, `(?m)^3 rotations, requests refused: 0$`, string(out))
	require.Regexp(t, `(?m)^rotated acme_sk_live_…\w{4} -> acme_sk_live_…\w{4}$`, string(out))
}
