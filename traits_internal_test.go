package apikey

import "testing"

// SignAsManager gives a record the MAC that a Manager of these peppers would store with
// it, whatever the record says: a newer version signs kinds that this one does not know.
func SignAsManager(m *Manager, r *StoreRecord) { m.sign(r) }

func TestUnknownKindsHaveNoTraits(t *testing.T) {
	for k := range 256 {
		if kind := Kind(k); kind != Secret && kind != Publishable && traits(kind) != (kindTraits{}) {
			t.Errorf("kind %d can do something: %+v", k, traits(kind))
		}
	}
	for _, recoverable := range []bool{false, true} {
		if traits(Secret).reveals(recoverable) != recoverable || !traits(Publishable).reveals(recoverable) || traits(200).reveals(recoverable) {
			t.Errorf("recoverable %v: the wrong tokens are shown", recoverable)
		}
	}
}
