package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/admin/keypage"
)

// preset is the page of one company: what its keys can do, what it asks before they
// change, and how it shows them.
type preset struct {
	Catalog []apikey.CatalogEntry
	StepUp  apikey.StepUp
	Factors []string // names of the factors that people have
	Zone    string

	Standing apikey.Standing                                             // nil: every account is approved
	Products func(account string, m apikey.Mode, a apikey.Ability) error // nil: every account has all

	// Page is the configuration of the page, with the URL of this server.
	Page func(url string) (keypage.Config, error)

	// Begin makes the keys that an account has from the start. Nil: none.
	Begin func(ctx context.Context, m *apikey.Manager) error
	// Abilities of the seeded keys, in turn. Nil: no key is seeded.
	Abilities [][]string
	// Recoverable: the seeded keys can be revealed.
	Recoverable bool
}

var presets = map[string]preset{
	// DOKU: one secret key that can be revealed and regenerated, now or at a time, each with
	// a code by e-mail; a client ID of the merchant; two public keys to look at.
	"doku": {
		Catalog: payments,
		// A person who has set up an authenticator app can use that instead of the code.
		StepUp: apikey.GuardRevealAndRotate("email", "totp"), Factors: []string{"email", "totp"},
		Zone: "Asia/Jakarta",
		Page: func(string) (c keypage.Config, err error) {
			c.Recoverable = keypage.Always
			c.ClientID = func(apikey.Info) string { return "BRN-0239-1736742088036" }
			c.Terms = keypage.Terms{Version: "1", URL: "/terms"}
			c.PublicKeys, err = publicKeys("DOKU Public Key", "Merchant Public Key")
			return c, err
		},
		Begin: func(ctx context.Context, m *apikey.Manager) error {
			_, err := m.Issue(ctx, apikey.IssueRequest{Mode: apikey.Live, Name: "Main", Abilities: []string{"payment:*"}, Recoverable: true})
			return err
		},
		Abilities: [][]string{{"payment:checkout"}, {"payment:checkout", "payment:verify"}}, Recoverable: true,
	},

	// UddoktaPay: named keys with abilities, a day of expiry and a switch; the URLs of the
	// API; no confirmation. A key is shown once.
	"uddoktapay": {
		Catalog: payments, Zone: "Asia/Dhaka",
		Page: func(url string) (keypage.Config, error) {
			return keypage.Config{Endpoints: []keypage.Endpoint{
				{Name: "Ping", Description: "Shows whether a live key works.", URL: url + "/live/ping"},
				{Name: "Sandbox ping", Description: "Shows whether a test key works.", URL: url + "/test/ping"},
				{Name: "Refund", Description: "Refunds a payment, in whole or in part.", URL: url + "/live/refund"},
			}}, nil
		},
		Abilities: [][]string{{"payment:checkout"}, {"payment:checkout", "payment:verify"}, {"payment:checkout", "payment:verify", "payment:refund"}},
	},

	// Xendit: a level for each product; the password before a key is made or deleted; a
	// public key in each mode from the start, and no secret key.
	"xendit": {
		Catalog: []apikey.CatalogEntry{
			{Product: "money-in", Description: "Invoices, virtual accounts, cards, QR codes"},
			{Product: "money-out", Description: "Payments to banks and e-wallets"},
			{Product: "balance", Description: "What the account has"},
			{Product: "transaction", Description: "Payments that were made"},
			{Product: "report", Description: "Files for the accounts"},
			{Scope: "card:tokenize", Description: "Turn a card number into a token", Publishable: true},
		},
		StepUp: apikey.GuardCreateAndDelete("password"), Factors: []string{"password"}, Zone: "Asia/Jakarta",
		Page: func(string) (keypage.Config, error) {
			return keypage.Config{Fields: []keypage.Field{keypage.Networks, keypage.Rotation}, Metadata: []string{"team"}}, nil
		},
		Begin: func(ctx context.Context, m *apikey.Manager) error {
			_, err := m.Provision(ctx, apikey.ProvisionRequest{Abilities: []string{"card:tokenize"}})
			return err
		},
		Abilities: [][]string{{"money-in=write"}, {"money-in=write", "money-out=read"}, {"balance=read", "transaction=read"}},
	},

	// Okto: an App ID and one App Secret in each mode. It is not kept: a lost one is reset.
	// People enter their password again before they get one. A seeded key would be that one
	// secret, so there is none.
	"okto": {
		// The one secret has all abilities.
		Catalog: []apikey.CatalogEntry{
			{Scope: "wallet:read", Description: "Look wallets up"},
			{Scope: "wallet:transfer", Description: "Move tokens"},
		},
		StepUp: guard("password", apikey.ActionIssue, apikey.ActionRotate), Factors: []string{"password"}, Zone: "Asia/Kolkata",
		Page: func(string) (keypage.Config, error) { return keypage.Config{Layout: keypage.SinglePair}, nil },
	},

	// The fifth page: keys of products that the company has enabled for the account, a PIN
	// before one is generated, and keys that can be looked at again.
	"pin": {
		Catalog: []apikey.CatalogEntry{
			{Product: "collection", Description: "Take payments by virtual account"},
			{Product: "disbursement", Description: "Pay to banks"},
			{Product: "qris", Description: "Take payments by QR code"},
		},
		StepUp: guard("pin", apikey.ActionIssue, apikey.ActionRotate, apikey.ActionReveal), Factors: []string{"pin"}, Zone: "Asia/Jakarta",
		Standing: approved{}, Products: enabled,
		Page: func(string) (keypage.Config, error) {
			return keypage.Config{Layout: keypage.ByProduct, Recoverable: keypage.Always}, nil
		},
		Abilities: [][]string{{"collection=write"}, {"disbursement=write"}}, Recoverable: true,
	},
}

// payments are the abilities of UddoktaPay's keys.
var payments = []apikey.CatalogEntry{
	{Scope: "payment:checkout", Description: "Create payment checkout sessions"},
	{Scope: "payment:verify", Description: "Verify payment status and retrieve payment details"},
	{Scope: "payment:refund", Description: "Process full or partial refunds"},
}

// guard asks for a factor before some actions, and before an admin does something for
// another person.
func guard(factor string, actions ...apikey.Action) apikey.StepUp {
	forAnother := apikey.GuardForAnother(factor)
	return func(a apikey.Action, m apikey.Mode) []string {
		if slices.Contains(actions, a) {
			return []string{factor}
		}
		return forAnother(a, m)
	}
}

// products are those that the company has enabled, by account. In your program they are
// in your records, and kept in memory: they are asked about at every verification.
var products = map[string][]string{
	account:      {"collection", "disbursement"},
	otherAccount: {"qris"},
}

// approved lets accounts use the API whose onboarding is finished.
type approved struct{}

func (approved) Allowed(account string, _ apikey.Mode) error {
	if _, ok := products[account]; !ok {
		return errors.New("the account is not approved")
	}
	return nil
}

// enabled lets keys have abilities of the account's products.
func enabled(account string, _ apikey.Mode, a apikey.Ability) error {
	if access, ok := a.(apikey.Access); ok && slices.Contains(products[account], access.Product) {
		return nil
	}
	return fmt.Errorf("%s is not enabled", a)
}

// publicKeys makes public keys to show: in your program, those that sign notifications.
func publicKeys(names ...string) (all []keypage.PublicKey, err error) {
	for _, name := range names {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
		if err != nil {
			return nil, err
		}
		all = append(all, keypage.PublicKey{Name: name, Text: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))})
	}
	return all, nil
}
