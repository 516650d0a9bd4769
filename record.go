package apikey

import (
	"slices"
	"strings"
	"sync"
)

// forms keeps the lists of abilities that records were read with. Merchants
// have few different ones, and a list that many keys share is read once, takes
// no memory of theirs, and is in the processor's cache when the next of them is
// verified. Bounded, because a store says what is in it.
type forms struct {
	mu    sync.RWMutex
	lists map[string]*abilities
}

// abilities are those of one record, or of all records that list the same. They
// are never changed.
type abilities struct {
	held   []Ability
	shared bool // kept in forms
}

const (
	maxForms  = 4096
	maxShared = 64 // abilities in a list: a row may hold any number
)

// abilities reads a record's abilities. Those of an unknown form are left out,
// and then all is false. The list is shared: read only.
func (c *core) abilities(texts []string) (list *abilities, all bool) {
	var buf [8 * (1 + maxAbility)]byte
	key := buf[:0]
	shared := len(texts) <= maxShared && c.catalog.forms() == 0 // a form of the program's own may answer differently tomorrow
	for _, text := range texts {
		shared = shared && len(text) <= maxAbility
		key = append(key, byte(len(text))) // so that no text passes for two
		key = append(key, text...)
	}
	if shared {
		c.forms.mu.RLock()
		list, all = c.forms.lists[string(key)]
		c.forms.mu.RUnlock()
		if all {
			return list, true
		}
	}
	list, all = &abilities{held: make([]Ability, 0, len(texts))}, true
	for _, text := range texts {
		a, err := c.catalog.parseForm(strings.Clone(text)) // a row's text may be part of a larger one
		if err != nil {
			all = false
			continue
		}
		list.held = append(list.held, a)
	}
	list.held = slices.Clip(list.held)
	if shared && all {
		c.forms.mu.Lock()
		if len(c.forms.lists) < maxForms {
			list.shared = true
			c.forms.lists[string(key)] = list
		}
		c.forms.mu.Unlock()
	}
	return list, all
}
