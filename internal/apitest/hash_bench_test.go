package apitest

import (
	"testing"

	"github.com/go-apikey/apikey"
)

// The figures that doc.go quotes for choosing a Hasher.
func BenchmarkHasher(b *testing.B) {
	argon, _ := apikey.NewArgon2id(apikey.Argon2idConfig{})
	p, _ := apikey.NewPepper(1, [32]byte{1})
	quick, _ := apikey.NewHMACSHA256(p)
	secret := []byte("acme_sk_live_12ze8rReboqNZB2DPZ5AuGO17TbrIJ18oHuVzzbuDSnH3ErdhnOjWkS14xyaz")
	for _, h := range []apikey.Hasher{argon, quick} {
		encoded, err := h.Hash(background, secret)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(h.Name(), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if ok, err := h.Verify(background, encoded, secret); !ok || err != nil {
					b.Fatal(ok, err)
				}
			}
		})
	}
}
