package apikey

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"

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

// item reads one item by its name; the zero Version says that there is none.
func (s session) item(ctx context.Context, kind StoreItemKind, id string) (StoreItem, error) {
	page, err := s.store.Items(ctx, StoreItemFilter{Kind: kind, ID: id})
	if err != nil {
		return StoreItem{}, storeError(err)
	}
	if len(page.Items) == 0 {
		return StoreItem{Kind: kind, ID: id}, nil
	}
	return page.Items[0], nil
}

// swapping writes items that are about the actor alone, again after every
// conflict: the budget, the challenges, the enrolments. It authorises nothing.
func (s session) swapping(ctx context.Context, work func(context.Context, Actor) (effect, error)) error {
	j := ofActor("", "").changing(func(a Actor, _ *StoreRecord) (effect, error) { return work(ctx, a) })
	j.unlogged = true
	return s.do(ctx, j)
}

// gone is the deletion of an item as it was read.
func (it StoreItem) gone() StoreItem {
	it.Version++
	it.Delete, it.Data, it.SealedKEK = true, nil, ""
	return it
}

// vouch returns the next version of an item that holds data under a MAC: whoever
// writes to the database without the pepper can neither make up a grant nor
// bend a challenge, so that its answer approves something else. Without a
// pepper there is no MAC.
func (c *core) vouch(it StoreItem, data []byte) StoreItem {
	it.Version++
	if !c.ring.has() {
		it.Data = append([]byte{0}, data...)
		return it
	}
	sum := c.ring.first.mac(purposeItem, vouchedText(it, data))
	it.Data = append(append([]byte{c.ring.first.slot}, sum[:]...), data...)
	return it
}

// vouched returns what vouch took, if it did. Of an item that is not there it
// is false.
func (c *core) vouched(it StoreItem) ([]byte, bool) {
	switch {
	case len(it.Data) == 0:
		return nil, false
	case it.Data[0] == 0:
		return it.Data[1:], !c.ring.has() || c.acceptUntagged
	}
	k := c.ring.at(it.Data[0])
	if k == nil || len(it.Data) < 1+sha256.Size {
		return nil, false
	}
	data := it.Data[1+sha256.Size:]
	sum := k.mac(purposeItem, vouchedText(it, data))
	return data, subtle.ConstantTimeCompare(sum[:], it.Data[1:1+sha256.Size]) == 1
}

// vouchedText is what the MAC covers: also the item's name and expiry, so that
// neither another item's data fits nor an old grant lives on.
func vouchedText(it StoreItem, data []byte) []byte {
	var c canon.Writer
	c.Text("apikey item v1")
	c.Text(string(it.Kind))
	c.Text(it.ID)
	c.Time(it.ExpiresAt)
	c.Bytes(data)
	return c.Encoded()
}
