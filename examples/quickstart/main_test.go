package main_test

import (
	"os/exec"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
)

const want = `shown to the merchant, once: TOKEN
payment:verify: <nil>
payment:refund: apikey: ability is missing: payment:refund
revoke: <nil>
from then on: apikey: key is revoked
`

func TestQuickstart(t *testing.T) {
	out, err := exec.Command("go", "run", ".").CombinedOutput()
	require.NoError(t, err, "%s", out)
	token := regexp.MustCompile(`\bacme_sk_live_[0-9A-Za-z]{73}\b`) // drawn at random
	require.Equal(t, want, token.ReplaceAllString(string(out), "TOKEN"))
}
