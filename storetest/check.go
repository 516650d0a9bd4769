package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"sync"
	"time"

	"github.com/go-apikey/apikey"
)

// ok stops the case if err is not nil.
func (e *env) ok(err error) {
	e.Helper()
	if err != nil {
		e.Fatalf("unexpected error: %v", err)
	}
}

// fails checks that err is want.
func (e *env) fails(what string, err, want error) {
	e.Helper()
	if !errors.Is(err, want) {
		e.Errorf("%s: got error %v, want %q", what, err, want)
	}
}

// equal compares two values, as diff does.
func (e *env) equal(what string, got, want any) {
	e.Helper()
	for _, d := range diff(what, reflect.ValueOf(got), reflect.ValueOf(want)) {
		e.Error(d)
	}
}

func (e *env) apply(changes ...apikey.StoreChange) {
	e.Helper()
	if err := e.Store.Apply(e.ctx, changes...); err != nil {
		e.Fatalf("Apply: unexpected error: %v", err)
	}
}

// create writes new records, up to 100 in one Apply.
func (e *env) create(records ...apikey.StoreRecord) {
	e.Helper()
	for len(records) > 0 {
		n := min(len(records), 100)
		e.apply(e.writes(records[:n]...)...)
		records = records[n:]
	}
}

func (e *env) conflicts(what string, changes ...apikey.StoreChange) {
	e.Helper()
	e.fails(what, e.Store.Apply(e.ctx, changes...), apikey.ErrConflict)
}

func (e *env) upkeep(batch ...apikey.StoreUpkeep) {
	e.Helper()
	if err := e.Store.Upkeep(e.ctx, batch); err != nil {
		e.Fatalf("Upkeep: unexpected error: %v", err)
	}
}

func (e *env) get(id apikey.KeyID) apikey.StoreRecord {
	e.Helper()
	r, err := e.Other.Get(e.ctx, id)
	if err != nil {
		e.Fatalf("Get: unexpected error: %v", err)
	}
	return r
}

// credential returns the stored credential number i of a record.
func (e *env) credential(id apikey.KeyID, i int) apikey.StoreCredential {
	e.Helper()
	r := e.get(id)
	if i >= len(r.Credentials) {
		e.Fatalf("the record has %d credentials, want at least %d", len(r.Credentials), i+1)
	}
	return r.Credentials[i]
}

// item returns the stored item of kind "test" with this ID, if there is one.
func (e *env) item(id string) (apikey.StoreItem, bool) {
	e.Helper()
	page, err := e.Other.Items(e.ctx, apikey.StoreItemFilter{Kind: "test", ID: id})
	e.ok(err)
	if len(page.Items) == 0 {
		return apikey.StoreItem{}, false
	}
	if len(page.Items) > 1 || page.Items[0].ID != id {
		e.Fatalf("Items with ID %q: got %d items, the first is %q", id, len(page.Items), page.Items[0].ID)
	}
	return page.Items[0], true
}

// walkEnd is the most pages that the suite reads of one list: more pages mean a loop.
const walkEnd = 5000

// list returns the records of all pages.
func (e *env) list(f apikey.StoreFilter) (all []apikey.StoreRecord) {
	e.Helper()
	for range walkEnd {
		page, err := e.Other.List(e.ctx, f)
		e.ok(err)
		if len(page.Damaged) > 0 {
			e.Fatalf("List: unexpected damage: %v", page.Damaged[0])
		}
		if f.Limit > 0 && len(page.Records) > f.Limit {
			e.Fatalf("List: %d records, the limit is %d", len(page.Records), f.Limit)
		}
		all = append(all, page.Records...)
		if f.After = page.Next; f.After == "" {
			return all
		}
	}
	e.Fatal("List: the walk does not end")
	return nil
}

// events returns the events of all pages.
func (e *env) events(f apikey.StoreEventFilter) (all []apikey.StoreEvent) {
	e.Helper()
	for range walkEnd {
		page, err := e.Other.Events(e.ctx, f)
		e.ok(err)
		if f.Limit > 0 && len(page.Events) > f.Limit {
			e.Fatalf("Events: %d events, the limit is %d", len(page.Events), f.Limit)
		}
		all = append(all, page.Events...)
		if f.After = page.Next; f.After == "" {
			return all
		}
	}
	e.Fatal("Events: the walk does not end")
	return nil
}

// items returns the items of all pages.
func (e *env) items(f apikey.StoreItemFilter) (all []apikey.StoreItem) {
	e.Helper()
	for range walkEnd {
		page, err := e.Other.Items(e.ctx, f)
		e.ok(err)
		if f.Limit > 0 && len(page.Items) > f.Limit {
			e.Fatalf("Items: %d items, the limit is %d", len(page.Items), f.Limit)
		}
		all = append(all, page.Items...)
		if f.After = page.Next; f.After == "" {
			return all
		}
	}
	e.Fatal("Items: the walk does not end")
	return nil
}

// now returns the current end of the feed.
func (e *env) now() apikey.Cursor {
	e.Helper()
	c, err := e.Store.Changed(e.ctx, "", 100)
	e.ok(err)
	if c.Next == "" {
		e.Fatal("Changed: an empty Next is no position")
	}
	return c.Next
}

// changed reads the feed to its end, on the other node.
func (e *env) changed(after apikey.Cursor, limit int) ([]apikey.StoreRecord, apikey.Cursor) {
	e.Helper()
	records, end, err := drain(e.ctx, after, limit, e.Other)
	e.ok(err)
	return records, end
}

// drain reads the feed to its end, each page on the next of the nodes.
func drain(ctx context.Context, after apikey.Cursor, limit int, nodes ...apikey.Store) (all []apikey.StoreRecord, end apikey.Cursor, err error) {
	for n := range walkEnd {
		c, err := nodes[n%len(nodes)].Changed(ctx, after, limit)
		switch {
		case err != nil:
			return nil, "", err
		case len(c.Records)+len(c.Damaged) > limit:
			return nil, "", fmt.Errorf("the feed shows %d records, the limit is %d", len(c.Records), limit)
		case len(c.Damaged) > 0:
			return nil, "", fmt.Errorf("the feed has unexpected damage: %w", c.Damaged[0])
		case c.Next == "":
			return nil, "", errors.New("an empty Next would start the feed anew")
		}
		all, after = append(all, c.Records...), c.Next
		if !c.More && c.Current {
			return all, after, nil
		}
	}
	return nil, "", errors.New("the feed does not end, or its node never becomes current")
}

// race calls run in n goroutines at the same time, and waits for them.
func race(n int, run func(i int)) {
	var ready, done sync.WaitGroup
	ready.Add(n)
	for i := range n {
		done.Go(func() {
			ready.Done()
			ready.Wait()
			run(i)
		})
	}
	done.Wait()
}

// diff describes every field that differs. Times are equal if they are the same instant,
// and got must be in UTC. nil and empty are equal.
func diff(path string, got, want reflect.Value) (found []string) {
	differ := func() []string {
		return []string{fmt.Sprintf("%s: got %.300s, want %.300s", path, show(got), show(want))}
	}
	switch w := want.Interface().(type) {
	case time.Time:
		g := got.Interface().(time.Time)
		if !g.Equal(w) || g.Location() != time.UTC {
			return differ()
		}
		return nil
	case []byte:
		if !bytes.Equal(got.Bytes(), w) {
			return differ()
		}
		return nil
	case netip.Prefix:
		if got.Interface() != want.Interface() {
			return differ()
		}
		return nil
	}
	switch want.Kind() {
	case reflect.Pointer:
		if got.IsNil() || want.IsNil() {
			if got.IsNil() != want.IsNil() {
				return differ()
			}
			return nil
		}
		return diff(path, got.Elem(), want.Elem())
	case reflect.Struct:
		for i := range want.NumField() {
			found = append(found, diff(path+"."+want.Type().Field(i).Name, got.Field(i), want.Field(i))...)
		}
	case reflect.Slice:
		if got.Len() != want.Len() {
			return []string{fmt.Sprintf("%s: got %d elements, want %d", path, got.Len(), want.Len())}
		}
		for i := range want.Len() {
			found = append(found, diff(fmt.Sprintf("%s[%d]", path, i), got.Index(i), want.Index(i))...)
		}
	case reflect.Map:
		if got.Len() != want.Len() || got.Len() > 0 && !reflect.DeepEqual(got.Interface(), want.Interface()) {
			return differ()
		}
	default:
		if got.Interface() != want.Interface() {
			return differ()
		}
	}
	return found
}

func show(v reflect.Value) string {
	switch v.Kind() {
	case reflect.String:
		return fmt.Sprintf("%q", v.String())
	case reflect.Array, reflect.Slice:
		return fmt.Sprintf("%x", v.Interface())
	}
	return fmt.Sprint(v.Interface())
}
