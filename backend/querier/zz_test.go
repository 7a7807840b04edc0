package querier
import ("testing";"time";"strings";"github.com/prometheus/prometheus/promql/parser")
func TestZZ(t *testing.T){
 p:=parser.NewParser(parser.Options{})
 run:=func(n string,q string){
 s:=time.Now(); e,err:=p.ParseExpr(q); a:=time.Since(s); if err!=nil{t.Log(err);return}
 s=time.Now(); _=e.String(); b:=time.Since(s)
 s=time.Now(); o:=e.Pretty(0); t.Log(n,len(q),"parse",a,"string",b,"pretty",time.Since(s),len(o))
 }
 for _,n:=range []int{500,1000,2000}{ run("plus","1"+strings.Repeat("+1",n)); run("or",strings.Repeat(`some_metric_name{job="some-job"} or `,n)+"b") }
 for _,n:=range []int{100,200,400}{ run("paren",strings.Repeat("(",n)+"1"+strings.Repeat(")",n)); run("paren long",strings.Repeat("(",n)+`some_metric_name{job="`+strings.Repeat("x",60000)+`"}`+strings.Repeat(")",n)); run("abs",strings.Repeat("abs(",n)+"a"+strings.Repeat(")",n)) ; run("sumor",strings.Repeat("sum(a or ",n)+"a"+strings.Repeat(")",n))}
 run("minus",strings.Repeat("-",2000)+"1")
 run("minusp",strings.Repeat("-(",200)+"1"+strings.Repeat(")",200))
 s:=time.Now(); l:=parser.Lex(strings.Repeat("+1",32000)); var it parser.Item; n:=0; for { l.NextItem(&it); if it.Typ==parser.EOF||it.Typ==parser.ERROR{break}; n++}; t.Log("lex",time.Since(s),n)
}
