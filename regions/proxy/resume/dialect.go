package resume

type dialect struct{}

var dialects = map[string]*dialect{}
