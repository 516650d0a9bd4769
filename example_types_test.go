package apikey_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/memstore"
)

func ExampleCatalog_Parse() {
	catalog := apikey.MustCatalog(
		apikey.CatalogEntry{Scope: "payment:verify"},
		apikey.CatalogEntry{Scope: "payment:refund"},
		apikey.CatalogEntry{Product: "balance"},
	)
	for _, text := range []string{"payment:refund", "payment:*", "balance=read", "payment:refnd"} {
		ability, err := catalog.Parse(text)
		fmt.Println(ability, err)
	}
	// Output:
	// payment:refund <nil>
	// payment:* <nil>
	// balance=read <nil>
	// <nil> apikey: invalid request: ability "payment:refnd" is unknown; nearest known: payment:refund, payment:verify, balance=read
}

func ExampleScope_Allows() {
	held := apikey.Scope("payment:*")
	fmt.Println(held.Allows(apikey.Scope("payment:refund")))
	fmt.Println(held.Allows(apikey.Scope("payments:refund")))
	fmt.Println(held.Allows(apikey.Access{Product: "payment", Level: apikey.Read}))
	// Output:
	// true
	// false
	// false
}

func ExampleAccess_Allows() {
	held := apikey.Access{Product: "balance", Level: apikey.Write}
	fmt.Println(held, held.Allows(apikey.Access{Product: "balance", Level: apikey.Read}))
	held.Level = apikey.Read
	fmt.Println(held, held.Allows(apikey.Access{Product: "balance", Level: apikey.Write}))
	// Output:
	// balance=write true
	// balance=read false
}

// upTo is an ability of a program's own: refunds up to an amount.
type upTo int

func (u upTo) String() string { return fmt.Sprintf("refund<=%d", int(u)) }

func (u upTo) Allows(required apikey.Ability) bool {
	want, ok := required.(upTo)
	return ok && want <= u
}

func parseUpTo(text string) (apikey.Ability, bool) {
	var u upTo
	_, err := fmt.Sscanf(text, "refund<=%d", &u)
	return u, err == nil && u > 0 && u.String() == text
}

// A program adds its own form of ability: a limit on refunds.
func ExampleCatalogEntry() {
	catalog := apikey.MustCatalog(apikey.CatalogEntry{Parse: parseUpTo, Description: "Refunds up to an amount"})
	held, err := catalog.Parse("refund<=5000")
	fmt.Println(held, err)
	fmt.Println(held.Allows(upTo(4999)), held.Allows(upTo(5001)))
	// Output:
	// refund<=5000 <nil>
	// true false
}

// A token of a test suite. It opens nothing.
const exampleToken = "acme_sk_test_6FfPd0anJDf6hyVQAWcQOun4f5Gc2Mu1qtstPvVz36j2mYed8w8ryhU1ERABMSw7olX1LFU09"

// A Token prints redacted, whatever prints it.
func ExampleToken() {
	token, err := apikey.ParseToken(exampleToken)
	must(err)
	fmt.Println(token)
	fmt.Printf("%v %+v %q %x\n", token, token, token, token)
	b, err := json.Marshal(struct{ Token apikey.Token }{token})
	fmt.Println(string(b), err)
	fmt.Println(token.Reveal() == exampleToken)
	// Output:
	// acme_sk_test_…FU09
	// acme_sk_test_…FU09 acme_sk_test_…FU09 acme_sk_test_…FU09 acme_sk_test_…FU09
	// {"Token":"acme_sk_test_…FU09"} <nil>
	// true
}

// What a secret scanner needs: no store, no false positives from typos.
func ExampleParseToken() {
	token, err := apikey.ParseToken(exampleToken)
	fmt.Println(token.Kind(), token.Mode(), token.Hint(), err)

	_, err = apikey.ParseToken(strings.Replace(exampleToken, "_test_", "_live_", 1)) // relabelled
	fmt.Println(err)
	// Output:
	// secret test FU09 <nil>
	// apikey: invalid token
}

func ExamplePepper() {
	var key [32]byte // 32 random bytes, from a file or a secret manager
	copy(key[:], "an example, so anything but random")
	pepper, err := apikey.NewPepper(1, key)
	fmt.Println(pepper, err)

	_, err = apikey.NewPepper(2, [32]byte{}) // a file that was never written
	fmt.Println(err)
	// Output:
	// pepper(slot 1) <nil>
	// apikey: invalid request: pepper of slot 2 is all zeros: want 32 random bytes
}

// A file in which one pepper is being replaced: the first line mints, both verify.
func ExampleParsePeppers() {
	// text, err := apikey.ReadSecretFile("/etc/shop/peppers")
	text := "# in use since May\n" +
		"2:8f0b6a1e5b7d4c39a2e1f0d4c3b2a1908f7e6d5c4b3a29181706f5e4d3c2b1a0\n" +
		"1:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n"
	peppers, err := apikey.ParsePeppers(text)
	fmt.Println(peppers, err)

	_, err = apikey.ParsePeppers("00112233445566778899aabbccddeeff00112233445566778899aabbccddee") // cut off
	fmt.Println(err)
	// Output:
	// [pepper(slot 2) pepper(slot 1)] <nil>
	// apikey: invalid request: pepper, line 1: has 31 bytes, want 32: make one with openssl rand -hex 32
}

// A KEK from an environment variable: the key alone gets an ID that is made from it.
func ExampleParseKEK() {
	const key = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff" // os.Getenv("SHOP_KEK")
	named, err := apikey.ParseKEK("kek-2026:" + key)
	fmt.Println(named, err)

	bare, err := apikey.ParseKEK(key)
	fmt.Println(bare, err)
	// Output:
	// kek(kek-2026) <nil>
	// kek(kek-684887f454ebc49a) <nil>
}

func ExampleArgon2id() {
	// The least memory that is accepted; the zero config is the default cost.
	// Give the same value to the Manager and all Verifiers of a process: its
	// slots bound what hashing may take of the machine.
	hasher, err := apikey.NewArgon2id(apikey.Argon2idConfig{Memory: 7168, Time: 5})
	must(err)
	encoded, err := hasher.Hash(context.Background(), []byte("secret"))
	must(err)
	fmt.Println(strings.HasPrefix(encoded, "$argon2id$v=19$m=7168,t=5,p=1$"))

	ok, err := hasher.Verify(context.Background(), encoded, []byte("secret"))
	fmt.Println(ok, err)
	// Output:
	// true
	// true <nil>
}

func ExampleHMACSHA256() {
	pepper, err := apikey.NewPepper(1, [32]byte{0: 1, 31: 2})
	must(err)
	hasher, err := apikey.NewHMACSHA256(pepper)
	must(err)
	encoded, err := hasher.Hash(context.Background(), []byte("secret"))
	must(err)
	fmt.Println(strings.HasPrefix(encoded, "$hmac-sha256$1$"))

	ok, err := hasher.Verify(context.Background(), encoded, []byte("guess"))
	fmt.Println(ok, err)
	// Output:
	// true
	// false <nil>
}

// developers may read, and manage test keys; everything else needs an admin.
type developers struct{ apikey.RolePolicy }

func (p developers) Authorize(ctx context.Context, a apikey.Actor, act apikey.Action, k apikey.Info) error {
	if a.Role == "developer" && (act == apikey.ActionRead || k.Mode == apikey.Test) {
		return nil
	}
	return p.RolePolicy.Authorize(ctx, a, act, k)
}

func ExamplePolicy() {
	manager, err := apikey.NewManager(context.Background(), apikey.Settings{
		Store: memstore.New(), Prefix: "acme", Catalog: apikey.MustCatalog(),
	}, apikey.ManagerConfig{Policy: developers{}})
	must(err)
	developer := apikey.WithActor(context.Background(), apikey.Actor{ID: "usr_2", Account: "acc_1", Role: "developer"})

	for _, mode := range []apikey.Mode{apikey.Test, apikey.Live} {
		_, err := manager.Issue(developer, apikey.IssueRequest{Mode: mode})
		fmt.Println(mode, err, errors.Is(err, apikey.ErrForbidden))
	}
	// Output:
	// test <nil> false
	// live apikey: action is not allowed for this actor: role "developer" may not do key.issue; allowed roles: [superadmin admin] true
}

// approved are the accounts whose onboarding is finished; others have the
// sandbox. It answers from memory, because every verification asks.
type approved map[string]bool

func (a approved) Allowed(account string, m apikey.Mode) error {
	if m == apikey.Test || a[account] {
		return nil
	}
	return fmt.Errorf("onboarding of %s is not finished", account)
}

func ExampleStanding() {
	manager, err := apikey.NewManager(context.Background(), apikey.Settings{
		Store: memstore.New(), Prefix: "acme", Catalog: apikey.MustCatalog(), Standing: approved{"acc_1": true},
	}, apikey.ManagerConfig{})
	must(err)
	staff := apikey.WithActor(context.Background(), apikey.Operator("support"))

	for _, account := range []string{"acc_1", "acc_2"} {
		_, err := manager.Issue(staff, apikey.IssueRequest{Account: account, Mode: apikey.Live})
		fmt.Println(account, err)
	}
	// Output:
	// acc_1 <nil>
	// acc_2 apikey: account is not allowed: onboarding of acc_2 is not finished
}

// Hooks count, and raise the alarm when somebody uses a key that is dead.
func ExampleTrace() {
	manager, err := apikey.NewManager(context.Background(), apikey.Settings{
		Store: memstore.New(), Prefix: "acme", Catalog: apikey.MustCatalog(),
		Trace: &apikey.Trace{
			Verified:    func(v apikey.VerifiedTrace) { fmt.Println("decided by", v.Source) },
			InactiveKey: func(key apikey.Info, err error) { fmt.Println("leak?", key.Name, err) },
		},
	}, apikey.ManagerConfig{})
	must(err)
	defer manager.Close(context.Background())
	live, err := manager.NewVerifier(context.Background(), apikey.VerifierConfig{Mode: apikey.Live})
	must(err)
	admin := apikey.WithActor(context.Background(), apikey.Actor{ID: "usr_1", Account: "acc_1", Role: "admin"})
	issued, err := manager.Issue(admin, apikey.IssueRequest{Mode: apikey.Live, Name: "Website"})
	must(err)

	live.Verify(context.Background(), "acme_sk_live_typo", apikey.Request{})
	live.Verify(context.Background(), issued.Token.Reveal(), apikey.Request{})
	must(manager.Revoke(admin, apikey.RevokeRequest{Key: issued.Key.ID}))
	live.Verify(context.Background(), issued.Token.Reveal(), apikey.Request{})
	// Output:
	// decided by token
	// decided by store
	// decided by cache
	// leak? Website apikey: key is revoked
}

// A View cannot be changed by whoever is given it.
func ExampleView() {
	admin, manager := exampleManager()
	issued, err := manager.Issue(admin, apikey.IssueRequest{Mode: apikey.Live, Abilities: []string{"payment:verify", "balance=read"}})
	must(err)

	for ability := range issued.Key.Abilities.All() {
		fmt.Println(ability)
	}
	b, err := json.Marshal(issued.Key.Abilities)
	fmt.Println(string(b), err)
	// Output:
	// balance=read
	// payment:verify
	// ["balance=read","payment:verify"] <nil>
}

// A key page gets an Info as it is, with the status that follows from the clock.
func ExampleInfo_Status() {
	id, err := apikey.ParseKeyID("01890a5d-ac96-774b-bcce-b302099a8057")
	must(err)
	now := time.Date(2026, 12, 24, 0, 0, 0, 0, time.UTC)
	info := apikey.Info{
		ID: id, Name: "Website", Account: "acc_1", Mode: apikey.Live, Kind: apikey.Secret, State: apikey.Active, Version: 1,
		Abilities: apikey.NewView[apikey.Ability](apikey.Scope("payment:refund")),
		CreatedAt: now.AddDate(-1, 0, 8), ExpiresAt: now.AddDate(0, 0, 8),
	}
	b, err := json.MarshalIndent(struct {
		apikey.Info
		Status apikey.Status `json:"status"`
	}{info, info.Status(now, 30*24*time.Hour)}, "", "  ")
	fmt.Println(string(b), err)
	// Output:
	// {
	//   "id": "01890a5d-ac96-774b-bcce-b302099a8057",
	//   "name": "Website",
	//   "account": "acc_1",
	//   "mode": "live",
	//   "kind": "secret",
	//   "state": "active",
	//   "recoverable": false,
	//   "version": 1,
	//   "abilities": [
	//     "payment:refund"
	//   ],
	//   "metadata": {},
	//   "networks": [],
	//   "origins": [],
	//   "created_at": "2026-01-01T00:00:00Z",
	//   "expires_at": "2027-01-01T00:00:00Z",
	//   "status": "expiring"
	// } <nil>
}

// A key that holds abilities of the program's own form is read with the Catalog.
func ExampleCatalog_ParseInfo() {
	catalog := apikey.MustCatalog(apikey.CatalogEntry{Parse: parseUpTo})
	text := []byte(`{"name":"Website","abilities":["refund<=5000"]}`)
	info, err := catalog.ParseInfo(text)
	fmt.Println(info.Name, info.Abilities.At(0).Allows(upTo(4999)), err)

	err = json.Unmarshal(text, &info)
	fmt.Println(errors.Is(err, apikey.ErrInvalid))
	// Output:
	// Website true <nil>
	// true
}

func ExampleMetadata() {
	admin, manager, live := exampleProgram()
	defer live.Close(admin)
	issued, err := manager.Issue(admin, apikey.IssueRequest{Mode: apikey.Live, Metadata: map[string]string{"shop": "7", "branch": "Dhaka"}})
	must(err)

	key, err := live.Verify(context.Background(), issued.Token.Reveal(), apikey.Request{})
	must(err)
	for name, value := range key.Info().Metadata.All() {
		fmt.Println(name, value)
	}
	fmt.Printf("%q\n", key.Info().Metadata.Get("absent"))
	// Output:
	// branch Dhaka
	// shop 7
	// ""
}

// fakeKey is all that a handler's unit test needs of a key.
type fakeKey struct{ info apikey.Info }

func (k fakeKey) Info() apikey.Info { return k.info }

func (k fakeKey) Can(required ...apikey.Ability) bool {
	for _, want := range required {
		if want != apikey.Scope("payment:refund") {
			return false
		}
	}
	return true
}

// Handlers see a Key, so their tests can pass one of their own.
func ExampleKey() {
	ctx := apikey.NewContext(context.Background(), fakeKey{apikey.Info{Account: "acc_1", Mode: apikey.Test}})

	key, ok := apikey.FromContext(ctx)
	fmt.Println(ok, key.Info().Account, key.Info().Mode)
	fmt.Println(key.Can(apikey.Scope("payment:refund")), key.Can(apikey.Scope("payout:create")))
	// Output:
	// true acc_1 test
	// true false
}

// An Info may be logged: it holds no secret. So may a Token, which prints
// redacted.
func ExampleInfo() {
	log := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
	token, err := apikey.ParseToken(exampleToken)
	must(err)
	info := apikey.Info{Account: "acc_1", Name: "Website", ExpiresAt: time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)}
	log.Info("issued", "token", token, "account", info.Account, "expires", info.ExpiresAt)
	// Output: level=INFO msg=issued token=acme_sk_test_…FU09 account=acc_1 expires=2027-01-01T00:00:00.000Z
}
