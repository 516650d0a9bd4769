package apikey

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/go-apikey/apikey/internal/canon"
)

// itemID names an item of an account and mode in at most 64 bytes, whatever the
// account and the rest are.
func itemID(account string, m Mode, rest string) string {
	var c canon.Writer
	c.Text(account)
	c.Uint(uint64(m))
	c.Text(rest)
	sum := c.Sum()
	return hex.EncodeToString(sum[:])
}

// item reads one item by its name. If there is none, its Version is 0.
func (s session) item(ctx context.Context, kind StoreItemKind, id string) (StoreItem, error) {
	return itemOf(ctx, s.store, kind, id)
}

func itemOf(ctx context.Context, store Store, kind StoreItemKind, id string) (StoreItem, error) {
	page, err := store.Items(ctx, StoreItemFilter{Kind: kind, ID: id})
	if err != nil {
		return StoreItem{}, storeError(err)
	}
	if len(page.Items) == 0 {
		return StoreItem{Kind: kind, ID: id}, nil
	}
	return page.Items[0], nil
}

// swapping writes items that are about the actor alone: the budget, the challenges, the
// enrolments. After a conflict, work runs again. swapping asks no Policy.
func (s session) swapping(ctx context.Context, work func(context.Context, Actor) (effect, error)) error {
	j := ofActor("").changing(func(a Actor, _ *StoreRecord) (effect, error) { return work(ctx, a) })
	j.unlogged = true
	return s.do(ctx, j)
}

// deleted returns the deletion of an item as it was read.
func (it StoreItem) deleted() StoreItem {
	it.Version++
	it.Delete, it.Data, it.SealedKEK = true, nil, ""
	return it
}

// vouch returns the next version of an item that holds data under a MAC. So somebody
// who writes to the database without the pepper can neither make up a grant nor change
// a challenge so that its answer approves something else. Without a pepper there is no
// MAC.
func (c *core) vouch(it StoreItem, data []byte) StoreItem {
	it.Version++
	k := c.minting()
	if k == nil {
		it.Data = append([]byte{0}, data...)
		return it
	}
	sum := k.mac(purposeItem, vouchedText(it, data))
	it.Data = append(append([]byte{k.slot}, sum[:]...), data...)
	return it
}

// vouched returns the data that vouch put into an item, and whether its MAC is right.
// If the item does not exist, that is false.
func (c *core) vouched(it StoreItem) ([]byte, bool) {
	switch {
	case len(it.Data) == 0:
		return nil, false
	case it.Data[0] == 0:
		return it.Data[1:], !c.ring.has() || c.settings.AcceptUntagged
	}
	k := c.ring.at(it.Data[0])
	if k == nil || len(it.Data) < 1+sha256.Size {
		return nil, false
	}
	data := it.Data[1+sha256.Size:]
	sum := k.mac(purposeItem, vouchedText(it, data))
	return data, subtle.ConstantTimeCompare(sum[:], it.Data[1:1+sha256.Size]) == 1
}

// vouchedText returns what the MAC covers. The item's name and expiry are included, so
// that another item's data does not fit, and no grant lasts longer than it may.
func vouchedText(it StoreItem, data []byte) []byte {
	var c canon.Writer
	c.Text("apikey item v1")
	c.Text(string(it.Kind))
	c.Text(it.ID)
	c.Time(it.ExpiresAt)
	c.Bytes(data)
	return c.Encoded()
}

// count is an upper bound of the number of keys of an account. Every call that makes a
// key, or makes one work again, adds to it in its own Apply: if two calls saw the same
// count, one conflicts and looks again, so the limit is exact. A call that takes power
// away never changes the count: nothing may hold up a revocation. So the count may be
// too high. The keys themselves are counted when it has reached the limit, and once for
// an account that has no count yet.
type count struct {
	item  StoreItem
	known bool // bound counts every key
	bound int

	// Only for an account's growth:
	group string   // the bytes that its credentials' IDs end with, see reads
	hour  []issued // keys that were made in the last hour
}

// issued is how many keys were made in one second.
type issued struct {
	second int64 // Unix time
	keys   int
}

const (
	itemQuota  StoreItemKind = "quota"  // of an account and mode: its live keys
	itemGrowth StoreItemKind = "growth" // of an account: its keys that are not revoked, and those of the last hour
)

func (s session) count(ctx context.Context, kind StoreItemKind, account string, m Mode) (*count, error) {
	it, err := s.item(ctx, kind, itemID(account, m, ""))
	if err != nil {
		return nil, err
	}
	c := &count{item: it}
	u := canon.NewReader(it.Data)
	// An older version of this program writes the data back as it found them, and counts
	// nothing. Then the version in the data is not that of the item.
	version, bound, group := u.Uint(), u.Uint(), u.Text()
	for range min(u.Uint(), 3601) {
		packed := u.Uint()
		c.hour = append(c.hour, issued{int64(packed >> 24), int(packed & 0xFFFFFF)})
	}
	if u.Complete() && len(group) == groupLen && bound <= math.MaxInt32 {
		c.known, c.bound, c.group = version == it.Version, int(bound), group
	} else {
		c.hour = nil
	}
	if c.group == "" {
		c.group = newGroup()
	}
	return c, nil
}

func newGroup() string {
	var b [groupLen]byte
	rand.Read(b[:])
	return string(b[:])
}

// swap returns the item to write.
func (c *count) swap() StoreItem {
	it := c.item
	it.Version++
	var data canon.Writer
	if c.known {
		data.Uint(it.Version)
	} else {
		data.Uint(0)
	}
	data.Uint(uint64(c.bound))
	data.Text(c.group)
	data.Uint(uint64(len(c.hour)))
	for _, i := range c.hour {
		data.Uint(uint64(i.second)<<24 | uint64(i.keys))
	}
	it.Data = data.Encoded()
	return it
}

// atMost adds n keys to a count, if that stays within a limit on the keys that match
// one of the filters. The item was read before the keys are counted.
func (s session) atMost(ctx context.Context, c *count, n, limit int, filters ...StoreFilter) error {
	if !c.known || c.bound > limit-n {
		c.known, c.bound = true, 0
		for _, f := range filters {
			if err := s.walkKeys(ctx, &c.bound, limit, f); err != nil {
				return err
			}
		}
	}
	if c.bound > limit-n {
		return ErrLimit
	}
	c.bound += n
	return nil
}

// walkKeys counts keys, up to a limit.
func (s session) walkKeys(ctx context.Context, n *int, limit int, f StoreFilter) error {
	for *n < limit {
		f.Limit = min(1000, limit-*n)
		page, err := s.store.List(ctx, f)
		if err != nil {
			return storeError(err)
		}
		*n += len(page.Records) + len(page.Damaged)
		if page.Next == "" {
			break
		}
		f.After = page.Next
	}
	return nil
}

// quota counts one more live key of an account and mode.
func (s session) quota(ctx context.Context, account string, m Mode, now time.Time) (StoreItem, error) {
	c, err := s.count(ctx, itemQuota, account, m)
	if err != nil {
		return StoreItem{}, err
	}
	limit := s.limits.LiveKeys
	err = s.atMost(ctx, c, 1, limit, StoreFilter{Account: account, Mode: m, State: Active, NotExpiredAt: micros(now)})
	if err == ErrLimit {
		err = &LimitError{Limit: LimitLiveKeys, Max: limit, Mode: m, text: fmt.Sprintf("%d live keys in mode %s, at most %d: revoke one that is not used", c.bound, m, limit)}
	}
	return c.swap(), err
}

// growth counts n more keys of an account, and returns the group of their credentials:
// that of made, if a key is made already and the account has none yet. Keys that an
// Operator makes are counted, but not limited.
func (s session) growth(ctx context.Context, a Actor, account string, n int, made *StoreRecord, now time.Time) (StoreItem, string, error) {
	c, err := s.count(ctx, itemGrowth, account, 0)
	if err != nil {
		return StoreItem{}, "", err
	}
	if made != nil && c.item.Version == 0 {
		c.group = groupOf(made.Credentials[0].ID)
	}
	keys := s.limits.Keys
	if a.operator {
		keys = math.MaxInt32
	} else if err := c.issue(n, s.limits.IssuesAnHour, now); err != nil {
		return StoreItem{}, "", err
	}
	err = s.atMost(ctx, c, n, keys, StoreFilter{Account: account, State: Active}, StoreFilter{Account: account, State: Suspended})
	if err == ErrLimit {
		err = &LimitError{Limit: LimitKeys, Max: keys, text: fmt.Sprintf("%d keys that are not revoked, at most %d: revoke those that are not used", c.bound, keys)}
	}
	return c.swap(), c.group, err
}

// issue counts n keys that are made now against those of the last hour, to the second.
// Entries of a far future, which a wrong clock has written, do not count.
func (c *count) issue(n, limit int, now time.Time) error {
	second, sum := now.Unix(), n
	c.hour = slices.DeleteFunc(c.hour, func(i issued) bool { return i.second <= second-3600 || i.second > second+3600 })
	for _, i := range c.hour {
		sum += i.keys
	}
	switch {
	case n > limit:
		return &LimitError{Limit: LimitIssuesAnHour, Max: limit, text: fmt.Sprintf("this makes %d keys, and an account may have %d issued in an hour: have an Operator make them", n, limit)}
	case sum > limit:
		oldest := time.Unix(second, 0)
		if len(c.hour) > 0 {
			oldest = time.Unix(c.hour[0].second, 0)
		}
		wait := max(time.Second, oldest.Add(time.Hour).Sub(now).Round(time.Second))
		return &LimitError{Limit: LimitIssuesAnHour, Max: limit, Wait: wait, text: fmt.Sprintf("%d keys were issued in the last hour, at most %d: wait for %v, or have an Operator issue it", sum-n, limit, wait)}
	}
	if last := len(c.hour) - 1; last >= 0 && c.hour[last].second >= second {
		c.hour[last].keys += n
	} else {
		c.hour = append(c.hour, issued{second, n})
	}
	return nil
}

// room checks, before a token is made and hashed, whether a key may be made at all. The
// items that are written with the key enforce the limits.
func (s session) room(ctx context.Context, a Actor, r *StoreRecord, now time.Time) error {
	_, _, err := s.growth(ctx, a, r.Account, 1, nil, now)
	if err == nil && r.works(now) {
		_, err = s.quota(ctx, r.Account, r.Mode, now)
	}
	return err
}
