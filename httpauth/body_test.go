package httpauth_test

import (
	"encoding/json"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/httpauth"
)

type approvalBody struct {
	Factor string `json:"factor"`
	Resend bool   `json:"resend"`
}

type issueBody struct {
	apikey.IssueRequest
	Approval approvalBody `json:"approval"`
}

func readInto(t *testing.T, body string, into any, without ...string) error {
	t.Helper()
	r := httptest.NewRequest("POST", "/", strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	return httpauth.ReadJSON(r, into, without...)
}

func TestReadJSON(t *testing.T) {
	var issue issueBody
	require.NoError(t, readInto(t, `{"mode":"live","name":"Shop","abilities":["payment:*"],"expires_at":"2028-02-29T00:00:00+07:00",
		"networks":["192.0.2.1","2001:db8::/32","::ffff:192.0.2.9"],"metadata":{"a":"b"},"kind":null,"approval":{"factor":"email"}} `, &issue))
	require.Equal(t, apikey.Live, issue.Mode)
	require.Equal(t, "Shop", issue.Name)
	require.Equal(t, []string{"payment:*"}, issue.Abilities)
	require.True(t, issue.ExpiresAt.Equal(time.Date(2028, 2, 28, 17, 0, 0, 0, time.UTC)))
	require.Equal(t, []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("::ffff:192.0.2.9/128")}, issue.Networks)
	require.Equal(t, map[string]string{"a": "b"}, issue.Metadata)
	require.Equal(t, "email", issue.Approval.Factor)

	var update apikey.UpdateRequest
	require.NoError(t, readInto(t, `{"name":"N","expires_at":null,"networks":["192.0.2.1"]}`, &update, "key", "if_version"))
	require.Equal(t, apikey.Set("N"), update.Name)
	require.Equal(t, apikey.Clear[time.Time](), update.ExpiresAt)
	require.Equal(t, apikey.Set([]netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")}), update.Networks)
	require.True(t, update.Abilities.IsZero())

	require.NoError(t, readInto(t, "", &issue), "no body is an object without members")
	r := httptest.NewRequest("POST", "/", nil)
	require.NoError(t, httpauth.ReadJSON(r, &issue))
}

func TestReadJSONRefuses(t *testing.T) {
	type wrong struct {
		field string
		code  apikey.InvalidCode
		value string
	}
	for _, c := range []struct {
		body string
		want []wrong
	}{
		{`[]`, []wrong{{"", "malformed", ""}}},
		{`null`, []wrong{{"", "malformed", ""}}},
		{`{`, []wrong{{"", "malformed", ""}}},
		{`{} {}`, []wrong{{"", "malformed", ""}}},
		{`{"mode":"live",}`, []wrong{{"", "malformed", ""}}},
		{"{\"name\":\"\xff\"}", []wrong{{"", "not_text", ""}}},
		{strings.Repeat("[", 10_000), []wrong{{"", "malformed", ""}}},
		{`{"name":` + strings.Repeat("[", 9_000) + strings.Repeat("]", 9_000) + `}`, []wrong{{"name", "malformed", ""}}},
		{`{"metadata":` + strings.Repeat(`{"a":`, 9_000) + "1" + strings.Repeat("}", 9_000) + `}`, []wrong{{"metadata", "malformed", ""}}},
		{`{"Mode":"live"}`, []wrong{{"Mode", "unknown", "Mode"}}},
		{`{"ip":"x"}`, []wrong{{"ip", "unknown", "ip"}}},
		{`{"` + strings.Repeat("ü", 100) + `":1}`, []wrong{{strings.Repeat("ü", 100), "unknown", strings.Repeat("ü", 100)}}},
		{`{"account":"acc_1"}`, []wrong{{"account", "unknown", "account"}}},
		{`{"mode":"live","mode":"test"}`, []wrong{{"mode", "several", ""}}},
		{`{"mode":"live","\u006dode":"test"}`, []wrong{{"mode", "several", ""}}},
		{`{"name":1}`, []wrong{{"name", "malformed", ""}}},
		{`{"rotate_months":1.5}`, []wrong{{"rotate_months", "malformed", ""}}},
		{`{"rotate_months":"1"}`, []wrong{{"rotate_months", "malformed", "1"}}},
		{`{"rotate_months":99999999999999999999}`, []wrong{{"rotate_months", "malformed", ""}}},
		{`{"disabled":"true"}`, []wrong{{"disabled", "malformed", "true"}}},
		{`{"mode":"prod"}`, []wrong{{"mode", "unknown", "prod"}}},
		{`{"expires_at":"2027-02-29T00:00:00Z"}`, []wrong{{"expires_at", "malformed", "2027-02-29T00:00:00Z"}}},
		{`{"expires_at":"10000-01-01T00:00:00Z"}`, []wrong{{"expires_at", "malformed", "10000-01-01T00:00:00Z"}}},
		{`{"expires_at":"2027-03-01"}`, []wrong{{"expires_at", "malformed", "2027-03-01"}}},
		{`{"expires_at":"0001-01-01T00:00:00Z"}`, []wrong{{"expires_at", "malformed", ""}}},
		{`{"expires_at":1}`, []wrong{{"expires_at", "malformed", ""}}},
		{`{"networks":["192.0.2.1","192.0.2.300","x"]}`, []wrong{{"networks", "malformed", "192.0.2.300"}}},
		{`{"networks":["fe80::1%eth0"]}`, []wrong{{"networks", "malformed", "fe80::1%eth0"}}},
		{`{"networks":"192.0.2.1"}`, []wrong{{"networks", "malformed", "192.0.2.1"}}},
		{`{"abilities":["a:b",null]}`, []wrong{{"abilities", "malformed", ""}}},
		{`{"abilities":[1]}`, []wrong{{"abilities", "malformed", ""}}},
		{`{"metadata":{"a":null}}`, []wrong{{"metadata", "malformed", ""}}},
		{`{"metadata":{"a":"1","a":"2"}}`, []wrong{{"metadata", "malformed", ""}}},
		{`{"metadata":{"a":1}}`, []wrong{{"metadata", "malformed", ""}}},
		{`{"approval":"email"}`, []wrong{{"approval", "malformed", ""}}},
		{`{"approval":{"factor":"email","factor":"totp"}}`, []wrong{{"approval.factor", "several", ""}}},
		{`{"approval":{"code":"1"}}`, []wrong{{"approval.code", "unknown", "code"}}},
		{`{"mode":"x","name":1,"approval":{"resend":1}}`, []wrong{{"mode", "unknown", "x"}, {"name", "malformed", ""}, {"approval.resend", "malformed", ""}}},
	} {
		start := time.Now()
		var into issueBody
		err := readInto(t, c.body, &into, "account")
		require.ErrorIs(t, err, apikey.ErrInvalid, "%.80s", c.body)
		var got []wrong
		for _, e := range apikey.InvalidFields(err) {
			got = append(got, wrong{e.Field, e.Code, e.Value})
		}
		require.Equal(t, c.want, got, "%.80s", c.body)
		require.Equal(t, 400, httpauth.Refused(err).Status)
		require.Len(t, httpauth.Refused(err).Fields, len(c.want))
		require.Less(t, time.Since(start), time.Second, "%.80s", c.body)
	}

	var update apikey.UpdateRequest
	for _, body := range []string{`{"key":"x"}`, `{"metadata":{"a":"1","a":"2"}}`, `{"networks":["x"]}`, `{"abilities":[null]}`, `{"expires_at":"x"}`, `{"rotate_months":true}`} {
		require.ErrorIs(t, readInto(t, body, &update, "key", "if_version"), apikey.ErrInvalid, body)
	}
	many := "{" + strings.Repeat(`"x":1,`, 9_000) + `"y":1}`
	long := `{"` + strings.Repeat("ü", 30_000) + `":1}`
	for _, body := range []string{many, long} { // the answer does not grow with what was sent
		answer, err := json.Marshal(httpauth.Refused(readInto(t, body, &update)))
		require.NoError(t, err)
		require.Less(t, len(answer), 6<<10)
	}
}

func TestReadJSONMediaTypeAndSize(t *testing.T) {
	read := func(body string, types ...string) error {
		r := httptest.NewRequest("POST", "/", strings.NewReader(body))
		r.Header["Content-Type"] = types
		var into issueBody
		return httpauth.ReadJSON(r, &into)
	}
	for _, media := range []string{"application/json", "application/json; charset=utf-8", "Application/JSON;charset=UTF-8"} {
		require.NoError(t, read(`{}`, media), media)
	}
	for _, media := range [][]string{nil, {""}, {"text/plain"}, {"application/x-www-form-urlencoded"}, {"multipart/form-data; boundary=x"}, {"application/json; charset=utf-16"}, {"application/json", "text/plain"}, {"application/json5"}, {"application/problem+json"}} {
		err := read(`{}`, media...)
		require.ErrorIs(t, err, httpauth.ErrMediaType, "%q", media)
		require.Equal(t, 415, httpauth.Refused(err).Status)
	}
	packed := httptest.NewRequest("POST", "/", strings.NewReader(`{}`))
	packed.Header.Set("Content-Type", "application/json")
	packed.Header.Set("Content-Encoding", "gzip")
	require.ErrorIs(t, httpauth.ReadJSON(packed, &issueBody{}), httpauth.ErrMediaType)
	large := `{"name":"` + strings.Repeat("x", 64<<10) + `"}`
	err := read(large, "application/json")
	require.ErrorIs(t, err, httpauth.ErrBodyTooLarge)
	require.Equal(t, 413, httpauth.Refused(err).Status)
	require.NoError(t, read(`{"name":"`+strings.Repeat("x", 64<<10-11)+`"}`, "application/json"))
}
