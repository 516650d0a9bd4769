package keypage

import (
	"fmt"
	"html/template"
	"slices"
	"strings"
	"sync"
	"text/template/parse"
)

// Branches are the branches of all templates, and which of them were executed: a template
// error is seen only when its branch is.
type Branches struct {
	mu   sync.Mutex
	left map[string]bool
}

// Left are the branches that nothing has executed.
func (b *Branches) Left() (left []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for name := range b.left {
		left = append(left, name)
	}
	slices.Sort(left)
	return left
}

// WatchBranches puts a mark, which writes nothing, at the beginning of each branch of the
// templates. It is called before anything is served.
func WatchBranches() *Branches {
	b := &Branches{left: map[string]bool{}}
	reached := func(name string) string {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.left, name)
		return ""
	}
	for screen := range templates {
		t := template.New("").Funcs(template.FuncMap{"reached": reached})
		for _, file := range []string{"layout", screen} {
			text, err := templateFiles.ReadFile("templates/" + file + ".html")
			if err != nil {
				panic(err)
			}
			template.Must(t.Parse(string(text)))
			for _, part := range t.Templates() {
				if part.Tree != nil && (file == screen || part.Name() != "content") {
					b.walk(part.Tree.Root, file+" "+part.Name())
				}
			}
		}
		templates[screen] = t
	}
	return b
}

func (b *Branches) walk(list *parse.ListNode, in string) {
	for _, node := range list.Nodes {
		var of *parse.BranchNode
		switch n := node.(type) {
		case *parse.IfNode:
			of = &n.BranchNode
		case *parse.WithNode:
			of = &n.BranchNode
		case *parse.RangeNode:
			of = &n.BranchNode
		default:
			continue
		}
		if of.List != nil && len(of.List.Nodes) > 0 && isMark(of.List.Nodes[0]) {
			continue // of layout.html, seen with another part
		}
		if of.ElseList == nil {
			of.ElseList = &parse.ListNode{NodeType: parse.NodeList}
		}
		line := strings.SplitN(of.String(), "}}", 2)[0] + "}}"
		for what, branch := range map[string]*parse.ListNode{"then": of.List, "else": of.ElseList} {
			b.walk(branch, in)
			name := fmt.Sprintf("%s at %d: %s %s", in, of.Position(), line, what)
			b.left[name] = true
			branch.Nodes = append([]parse.Node{mark(name)}, branch.Nodes...)
		}
	}
}

// mark is an assignment, which html/template takes in any place of a tag.
func mark(name string) parse.Node {
	trees, err := parse.Parse("mark", fmt.Sprintf("{{$mark := reached %q}}", name), "", "", map[string]any{"reached": 0})
	if err != nil {
		panic(err)
	}
	return trees["mark"].Root.Nodes[0]
}

func isMark(n parse.Node) bool {
	a, ok := n.(*parse.ActionNode)
	return ok && strings.HasPrefix(a.String(), "{{$mark :=")
}

// Version is that of the static files.
func Version() string { return readAssets().version }

// Screens are the names of the templates.
func Screens() (names []string) {
	for name := range templates {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
