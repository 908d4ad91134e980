// Package strictyaml reads YAML so that whoever wrote it learns what is wrong
// and where: every value knows its line, an unknown key is an error that names
// the nearest known one, and all mistakes of a file are reported at once.
//
// What lives here: [Parse] (syntax, one document, bounded size and depth),
// [Value] and [Fields] (walking with errors gathered in the [Doc]), and
// [Nearest] (the did-you-mean of names). What does not: meaning. Topology and
// scenario files bring their own checks and put them at a line by [Doc.Errorf].
//
// Anchors, aliases, merge keys and tags are refused: configuration that is read
// by people under pressure should say what it means where it stands, and a file
// cannot then be made to unfold to many times its size.
package strictyaml
