package keypage

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/go-apikey/apikey"
)

// Field is a field of the forms of a new key and of one that is edited, which a page has
// only if [Config] names it.
type Field string

const (
	// Networks are the addresses from which a key may be used, one a line.
	Networks Field = "networks"
	// Origins are the web origins that may use a key, one a line.
	Origins Field = "origins"
	// Rotation is after how many months the page reminds to regenerate a key.
	Rotation Field = "rotate_months"
)

// metadataField begins the names of the fields of metadata.
const metadataField = "metadata."

// fieldBox is such a field, as a form shows it.
type fieldBox struct {
	Name   string // of the field in the form, and in problems
	Label  string
	Hint   string
	Value  string
	Lines  bool // several values, one a line
	Number bool
}

// validFields refuses fields that are not known, and names of metadata that repeat.
func validFields(c Config) error {
	for i, f := range c.Fields {
		if f != Networks && f != Origins && f != Rotation || slices.Contains(c.Fields[:i], f) {
			return fmt.Errorf("keypage: Config.Fields has %q: want Networks, Origins and Rotation, each once", string(f))
		}
	}
	for i, name := range c.Metadata {
		if name == "" || slices.Contains(c.Metadata[:i], name) {
			return fmt.Errorf("keypage: Config.Metadata has %q: names are not empty, and each is there once", name)
		}
	}
	return nil
}

// boxes are the fields of a form, with their values. Metadata that Config does not name is
// the program's own: it is neither shown nor changed.
func (v *visit) boxes(value func(name string) string) (boxes []fieldBox) {
	for _, f := range v.Config.Fields {
		b := fieldBox{Name: string(f), Value: value(string(f)), Lines: true}
		switch f {
		case Networks:
			b.Label, b.Hint = v.T("networks"), v.T("form.networks", "example", "203.0.113.0/24")
		case Origins:
			b.Label, b.Hint = v.T("origins"), v.T("form.origins", "example", "https://shop.example")
		case Rotation:
			b.Label, b.Hint = v.T("form.rotation"), v.T("form.rotation.hint")
			b.Lines, b.Number = false, true
		}
		boxes = append(boxes, b)
	}
	for _, name := range v.Config.Metadata {
		b := fieldBox{Name: metadataField + name, Label: marked(name), Value: value(metadataField + name)}
		if text := "metadata." + name; v.text.has(text) {
			b.Label = v.T(text)
		}
		boxes = append(boxes, b)
	}
	return boxes
}

// valueOf is the text of a field of a key.
func valueOf(k apikey.Info, name string) string {
	switch Field(name) {
	case Networks:
		lines := []string{}
		for n := range k.Networks.All() {
			lines = append(lines, n.String())
		}
		return strings.Join(lines, "\n")
	case Origins:
		return strings.Join(slices.Collect(k.Origins.All()), "\n")
	case Rotation:
		if k.RotateMonths > 0 {
			return strconv.Itoa(k.RotateMonths)
		}
		return ""
	}
	return k.Metadata.Get(strings.TrimPrefix(name, metadataField))
}

// listed are the values of a field with several: one a line, or with commas.
func listed(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == '\r' || r == ',' || r == ' ' || r == '\t' })
}

// networksIn reads networks. An address alone is the network of that address.
func (v *visit) networksIn(text string, wrong problems) (networks []netip.Prefix) {
	for _, line := range listed(text) {
		n, err := netip.ParsePrefix(line)
		if err != nil {
			a, err := netip.ParseAddr(line)
			if err != nil || a.Zone() != "" {
				wrong.add(string(Networks), v.T("form.networks.wrong", "value", marked(line)))
				continue
			}
			n = netip.PrefixFrom(a, a.BitLen())
		}
		networks = append(networks, n)
	}
	return networks
}

// monthsIn reads a number of months; 0: never.
func (v *visit) monthsIn(text string, wrong problems) int {
	text = strings.TrimSpace(text)
	if text == "" {
		return 0
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		wrong.add(string(Rotation), v.T("invalid.malformed"))
	}
	return n
}

// fieldsInto adds the fields of the form to the request for a new key.
func (v *visit) fieldsInto(req *apikey.IssueRequest, d formData, wrong problems) {
	for _, b := range d.Boxes {
		switch Field(b.Name) {
		case Networks:
			req.Networks = v.networksIn(b.Value, wrong)
		case Origins:
			req.Origins = listed(b.Value)
		case Rotation:
			req.RotateMonths = v.monthsIn(b.Value, wrong)
		default:
			if b.Value != "" {
				if req.Metadata == nil {
					req.Metadata = map[string]string{}
				}
				req.Metadata[strings.TrimPrefix(b.Name, metadataField)] = b.Value
			}
		}
	}
}

// fieldChanges adds to an update the fields that differ from those of the key.
func (v *visit) fieldChanges(req *apikey.UpdateRequest, k apikey.Info, was, d formData, wrong problems) {
	metadata := maps.Collect(k.Metadata.All())
	for i, b := range d.Boxes {
		before := was.Boxes[i].Value
		switch Field(b.Name) {
		case Networks:
			if !slices.Equal(listed(before), listed(b.Value)) {
				req.Networks = setOrClear(v.networksIn(b.Value, wrong))
			}
		case Origins:
			if !slices.Equal(listed(before), listed(b.Value)) {
				req.Origins = setOrClear(listed(b.Value))
			}
		case Rotation:
			if strings.TrimSpace(b.Value) != before {
				req.RotateMonths = apikey.Clear[int]()
				if n := v.monthsIn(b.Value, wrong); n != 0 {
					req.RotateMonths = apikey.Set(n)
				}
			}
		default:
			if b.Value != oneLine(before) {
				if name := strings.TrimPrefix(b.Name, metadataField); b.Value == "" {
					delete(metadata, name)
				} else {
					metadata[name] = b.Value
				}
				req.Metadata = apikey.Set(metadata)
				if len(metadata) == 0 {
					req.Metadata = apikey.Clear[map[string]string]()
				}
			}
		}
	}
}

// oneLine is a text as a browser sends it back from a field of one line.
func oneLine(text string) string { return strings.NewReplacer("\r", "", "\n", "").Replace(text) }

// setOrClear sets a list. An empty one clears it: no restriction.
func setOrClear[T any](list []T) apikey.Field[[]T] {
	if len(list) == 0 {
		return apikey.Clear[[]T]()
	}
	return apikey.Set(list)
}
