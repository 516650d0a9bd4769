package apitest

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

// origins are what a merchant types, and what a browser sends for it by the URL
// standard (https://url.spec.whatwg.org/#host-parsing); empty: none sends such a thing.
var origins = [][2]string{
	{"https://shop.example", "https://shop.example"},
	{"HTTPS://Shop.EXAMPLE", "https://shop.example"},
	{"https://shop.example:443", "https://shop.example"},
	{"https://shop.example:0443", "https://shop.example"},
	{"https://shop.example:00000443", "https://shop.example"},
	{"http://shop.example:080", "http://shop.example"},
	{"http://shop.example:443", "http://shop.example:443"},
	{"https://shop.example:80", "https://shop.example:80"},
	{"https://shop.example:08443", "https://shop.example:8443"},
	{"https://shop.example:65535", "https://shop.example:65535"},
	{"https://shop.example:0", "https://shop.example:0"},
	{"https://shop.example.", "https://shop.example."},
	{"https://my_shop.example", "https://my_shop.example"},
	{"https://xn--bcher-kva.example", "https://xn--bcher-kva.example"},
	{"http://localhost:3000", "http://localhost:3000"},
	{"http://127.0.0.1", "http://127.0.0.1"},
	{"http://127.1", "http://127.0.0.1"},
	{"http://127.1:8080", "http://127.0.0.1:8080"},
	{"http://127.0.1", "http://127.0.0.1"},
	{"http://0x7f.1", "http://127.0.0.1"},
	{"http://0X7F000001", "http://127.0.0.1"},
	{"http://0177.0.0.01", "http://127.0.0.1"},
	{"http://2130706433", "http://127.0.0.1"},
	{"http://1.2.3.4.", "http://1.2.3.4"},
	{"http://0", "http://0.0.0.0"},
	{"http://0x", "http://0.0.0.0"},
	{"http://4294967295", "http://255.255.255.255"},
	{"http://[2001:0db8::1]", "http://[2001:db8::1]"},
	{"http://[2001:DB8:0:0:0:0:0:1]:0080", "http://[2001:db8::1]"},
	{"https://[::ffff:1.2.3.4]", "https://[::ffff:102:304]"},
	{"https://[::1.2.3.4]", "https://[::102:304]"},
	{"https://[1:0:0:2:0:0:0:3]", "https://[1:0:0:2::3]"},
	{"https://[1:0:2:3:4:5:6:7]", "https://[1:0:2:3:4:5:6:7]"},
	{"chrome-extension://aapbdbdomjkkjkaonfhkkikfgjllcleb", "chrome-extension://aapbdbdomjkkjkaonfhkkikfgjllcleb"},
	{"moz-extension://2c127fa4-62c7-7e4f-90e5-472b45eecfdc", "moz-extension://2c127fa4-62c7-7e4f-90e5-472b45eecfdc"},
	{"capacitor://localhost", "capacitor://localhost"},

	{"https://shop.example:99999", ""}, {"https://shop.example:65536", ""}, {"https://shop.example:", ""},
	{"https://shop.example:+80", ""}, {"https://shop.example:-1", ""}, {"https://shop.example:8_0", ""}, {"https://shop.example:http", ""},
	{"https://shop.example:80:80", ""},
	{"javascript://shop.example", ""}, {"javascript://", ""}, {"JavaScript://shop.example", ""}, {"data://shop.example", ""},
	{"about://blank", ""}, {"blob://shop.example", ""}, {"file://shop.example", ""}, {"filesystem://shop.example", ""},
	{"ws://shop.example", ""}, {"wss://shop.example", ""}, {"ftp://shop.example", ""}, {"mailto://shop.example", ""},
	{"view-source://shop.example", ""}, {"vbscript://shop.example", ""},
	{"1http://shop.example", ""}, {"ht_tp://shop.example", ""}, {"://shop.example", ""}, {"//shop.example", ""}, {"shop.example", ""},
	{"https:shop.example", ""}, {"https:/shop.example", ""}, {"https:///shop.example", ""}, {"https://", ""},
	{"https://a\"b", ""}, {"https://a<b", ""}, {"https://a>b", ""}, {"https://a^b", ""}, {"https://a|b", ""}, {"https://a%62", ""},
	{"https://a`b", ""}, {"https://a{b}", ""}, {"https://a!b", ""}, {"https://a$b", ""}, {"https://a'b", ""}, {"https://a(b)", ""},
	{"https://a*b", ""}, {"https://a+b", ""}, {"https://a,b", ""}, {"https://a;b", ""}, {"https://a=b", ""}, {"https://a~b", ""},
	{"https://a&b", ""}, {"https://a\\b", ""}, {"https://a b", ""}, {"https://a\tb", ""}, {"https://a\x00b", ""}, {"https://a\x7fb", ""},
	{" https://shop.example", ""}, {"https://shop.example ", ""}, {"https://shop.example\n", ""},
	{"https://u@shop.example", ""}, {"https://u:p@shop.example", ""}, {"https://@shop.example", ""},
	{"https://shop.example/", ""}, {"https://shop.example?", ""}, {"https://shop.example#", ""},
	{"https://b\u00fccher.example", ""}, {"https://shop.\u212aexample", ""}, {"https://\uff11.example", ""}, {"https://shop\u3002example", ""},
	{"https://.", ""}, {"https://..", ""}, {"https://.shop.example", ""}, {"https://shop..example", ""}, {"https://shop.example..", ""},
	{"https://xn--", ""}, {"https://xn--a-.example", ""}, {"https://" + strings.Repeat("a", 64) + ".example", ""},
	{"https://" + strings.Repeat("a.", 127) + "example", ""},
	{"http://256.1.1.1", ""}, {"http://1.256.1.1", ""}, {"http://1.2.3.256", ""}, {"http://1.2.65536", ""}, {"http://4294967296", ""},
	{"http://99999999999999999999", ""}, {"http://1.2.3.4.5", ""}, {"http://09", ""}, {"http://1.2.3.08", ""}, {"http://shop.example.1", ""},
	{"http://shop.0x1f", ""}, {"http://1.-2", "http://1.-2"}, {"http://0xfg", "http://0xfg"},
	{"http://[::1", ""}, {"http://::1", ""}, {"http://[::1]x", ""}, {"http://[fe80::1%eth0]", ""}, {"http://[fe80::1%25eth0]", ""}, {"http://[]", ""},
	{"http://[127.0.0.1]", ""}, {"http://[::1::2]", ""}, {"http://[1:2:3:4:5:6:7:8:9]", ""}, {"http://[00001::]", ""}, {"http://[::01.2.3.4]", ""},
	{"capacitor://[::1]", ""}, {"null", ""}, {"*", ""}, {"https://*", ""}, {"https://*.shop.example", ""}, {"", ""},
}

// A key is bound to what browsers send, however a merchant has written it, or not at
// all: an origin that none sends would be a key that nobody can use.
func TestFound13OriginsAreWhatBrowsersSend(t *testing.T) {
	e := newEnv(t)
	for _, o := range origins {
		issued, err := e.manager.Issue(e.ctx, apikey.IssueRequest{Mode: apikey.Live, Origins: []string{o[0]}})
		if o[1] == "" {
			require.ErrorIs(t, err, apikey.ErrInvalid, "%q", o[0])
			continue
		}
		require.NoError(t, err, "%q", o[0])
		require.Equal(t, []string{o[1]}, slices.Collect(issued.Key.Origins.All()), "%q", o[0])
		for _, sent := range o {
			_, err = e.verifier.Verify(background, issued.Token.Reveal(), apikey.Request{Origin: sent})
			require.NoError(t, err, "%q sent to a key of %q", sent, o[0])
		}
		_, err = e.verifier.Verify(background, issued.Token.Reveal(), apikey.Request{Origin: "https://evil.example"})
		require.ErrorIs(t, err, apikey.ErrOrigin)
		require.NoError(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: issued.Key.ID}))
	}
}

// A key that was bound before to a form that no browser sends goes on for the client
// that sends it.
func TestFound13OriginsStoredBeforeGoOn(t *testing.T) {
	e := newEnv(t, noPepper, func(e *env) { e.store = boundBefore{e.store} })
	issued := e.issue()
	_, err := e.verifier.Verify(background, issued.Token.Reveal(), apikey.Request{Origin: "http://127.1"})
	require.NoError(t, err)
	_, err = e.verifier.Verify(background, issued.Token.Reveal(), apikey.Request{Origin: "http://127.2"})
	require.ErrorIs(t, err, apikey.ErrOrigin)
}

// boundBefore is a store whose keys are bound to such an origin.
type boundBefore struct{ apikey.Store }

func (s boundBefore) Lookup(ctx context.Context, id apikey.CredentialID) (apikey.StoreRecord, error) {
	r, err := s.Store.Lookup(ctx, id)
	r.Origins = []string{"http://127.1"}
	return r, err
}
