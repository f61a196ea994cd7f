"""Pages of one kind each, and what is read of them."""

PAGES = {
    "cell paragraphs": (
        "<table><tr><td><p>Oak</p></td><td><p>12</p></td></tr><tr><td><div>Elm</div>"
        "</td><td><div>30</div></td></tr></table>",
        "Oak | 12\nElm | 30\n",
    ),
    "cell two paragraphs": (
        "<table><tr><td><p>Oak</p><p>tree</p></td><td>12</td></tr></table>",
        "Oak tree | 12\n",
    ),
    "cell list": (
        "<table><tr><td>Oak</td><td><ul><li>a</li><li>b</li></ul></td><td>12</td></tr></table>",
        "Oak | - a - b | 12\n",
    ),
    "cell ordered list": (
        "<table><tr><td>Oak</td><td><ol><li>aa</li><li>bb</li></ol></td><td>12</td></tr></table>",
        "Oak | 1. aa 2. bb | 12\n",
    ),
    "cell heading": (
        "<table><tr><td><h3>Oak</h3></td><td>12</td></tr><tr><td>Elm</td><td>30</td></tr></table>",
        "Oak | 12\nElm | 30\n",
    ),
    "cell pre": (
        "<table><tr><td><pre>int x;\nint y;</pre></td><td>12</td></tr></table>",
        "int x; int y; | 12\n",
    ),
    "cell pre row": (
        "<table><tr><td>Code</td><td><pre>x = 1</pre></td></tr><tr><td>Out</td><td>"
        "<pre>2</pre></td></tr></table>",
        "Code | x = 1\nOut | 2\n",
    ),
    "cell nested data table": (
        "<table><tr><td>Oak</td><td><table><tr><td>a</td><td>1</td></tr><tr><td>b</td>"
        "<td>2</td></tr></table></td></tr></table>",
        "Oak\n\na | 1\nb | 2\n",
    ),
    "layout table": (
        "<table><tr><td><h1>News</h1><p>one para of text</p><p>two para</p></td><td>"
        "<table><tr><td>a</td><td>1</td></tr></table></td></tr></table>",
        "# News\n\none para of text\n\ntwo para\n\na | 1\n",
    ),
    "layout single cell": (
        "<table width=100%><tr><td><p>First paragraph here.</p><p>Second one here.</p>"
        "</td></tr></table>",
        "First paragraph here.\n\nSecond one here.\n",
    ),
    "colspan": (
        "<table><tr><th>Tree</th><th colspan=2>Height and age</th><th>Where</th></tr>"
        "<tr><td>Oak</td><td>12</td><td>80</td><td>Vell</td></tr></table>",
        "Tree | Height and age |  | Where\nOak | 12 | 80 | Vell\n",
    ),
    "rowspan": (
        "<table><tr><th>Region</th><th>Town</th><th>Pop</th></tr><tr><td rowspan=2>"
        "North</td><td>Vell</td><td>41</td></tr><tr><td>Dun</td><td>17</td></tr><tr>"
        "<td>South</td><td>Arl</td><td>3</td></tr></table>",
        "Region | Town | Pop\nNorth | Vell | 41\nNorth | Dun | 17\nSouth | Arl | 3\n",
    ),
    "rowspan middle": (
        "<table><tr><td>A</td><td rowspan=2>Mid</td><td>1</td></tr><tr><td>B</td><td>"
        "2</td></tr></table>",
        "A | Mid | 1\nB | Mid | 2\n",
    ),
    "caption": (
        "<table><caption>Table 3: Trees</caption><tr><td>Oak</td><td>12</td></tr></table>",
        "Table 3: Trees\n\nOak | 12\n",
    ),
    "pipe in cell": (
        "<table><tr><td>a|b</td><td>12</td></tr></table>",
        "a|b | 12\n",
    ),
    "br in cell": (
        "<table><tr><td>Oak<br>tree</td><td>12</td></tr></table>",
        "Oak tree | 12\n",
    ),
    "thead tfoot": (
        "<table><thead><tr><th>T</th><th>N</th></tr></thead><tfoot><tr><td>Sum</td><td>"
        "42</td></tr></tfoot><tbody><tr><td>Oak</td><td>12</td></tr></tbody></table>",
        "T | N\nSum | 42\nOak | 12\n",
    ),
    "empty cells": (
        "<table><tr><td>a</td><td></td><td>c</td></tr></table>",
        "a |  | c\n",
    ),
    "mathml annotation": (
        "<p>So <math xmlns='http://www.w3.org/1998/Math/MathML'><semantics><mrow>"
        "<mfrac><mi>a</mi><mi>b</mi></mfrac></mrow><annotation "
        "encoding='application/x-tex'>\\frac{a}{b}</annotation></semantics></math> "
        "holds.</p>",
        "So \\frac{a}{b} holds.\n",
    ),
    "mathml plain": (
        "<p>So <math><msup><mi>x</mi><mn>2</mn></msup><mo>+</mo><mfrac><mn>1</mn><mn>"
        "2</mn></mfrac></math> holds.</p>",
        "So x^2 + 1/2 holds.\n",
    ),
    "mathml alttext": (
        "<p>So <math alttext='e^{i\\pi}=-1'><msup><mi>e</mi><mrow><mi>i</mi><mi>π</mi>"
        "</mrow></msup><mo>=</mo><mo>-</mo><mn>1</mn></math>.</p>",
        "So e^{i\\pi}=-1.\n",
    ),
    "mathml sqrt sub": (
        "<p><math><msqrt><mi>x</mi></msqrt><mo>=</mo><msub><mi>a</mi><mn>1</mn></msub></math></p>",
        "√x = a_1\n",
    ),
    "katex": (
        "<p>See <span class='katex'><span class='katex-mathml'><math><semantics><mrow>"
        "<mi>E</mi><mo>=</mo><mi>m</mi><msup><mi>c</mi><mn>2</mn></msup></mrow>"
        "<annotation encoding='application/x-tex'>E=mc^2</annotation></semantics>"
        "</math></span><span class='katex-html' aria-hidden='true'><span class='base'>"
        "E=mc2</span></span></span> done.</p>",
        "See E=mc^2 done.\n",
    ),
    "mathjax script": (
        "<p>See <span class='MathJax_Preview'>E=mc2</span><script type='math/tex'>"
        "E=mc^2</script> done. <script type='math/tex; mode=display'>\\int_0^1 "
        "f</script></p>",
        "See E=mc^2 done. \\int_0^1 f\n",
    ),
    "mathjax3": (
        "<p>See <mjx-container class='MathJax'><svg><g>x</g></svg><mjx-assistive-mml>"
        "<math><msup><mi>c</mi><mn>2</mn></msup></math></mjx-assistive-mml>"
        "</mjx-container> done.</p>",
        "See c^2 done.\n",
    ),
    "wiki math": (
        "<p>By <span class='mwe-math-element'><span class='mwe-math-mathml-inline' "
        "style='display: none;'><math><semantics><mrow><mi>a</mi></mrow><annotation "
        "encoding='application/x-tex'>{\\displaystyle a^{2}}</annotation></semantics>"
        "</math></span><img src='x.svg' class='mwe-math-fallback-image-inline' "
        "aria-hidden='true' alt='{\\displaystyle a^{2}}'></span> ok.</p>",
        "By a^{2} ok.\n",
    ),
    "sup": (
        "<p>There are 10<sup>6</sup> boats since 1998<sup>2</sup>, the 1<sup>st</sup>.</p>",
        "There are 10^6 boats since 1998^2, the 1st.\n",
    ),
    "sub": (
        "<p>H<sub>2</sub>O and x<sub>1</sub>2 and CO<sub>2</sub>.</p>",
        "H2O and x_{1}2 and CO2.\n",
    ),
    "sup negative": (
        "<p>3·10<sup>-7</sup> m, 10<sup>−7</sup></p>",
        "3·10^-7 m, 10^−7\n",
    ),
    "footnote sup link": (
        "<p>It is 41<sup><a href='#fn1'>1</a></sup> high.</p><ol><li id=fn1>Measured. "
        "<a href='#r'>↩</a></li></ol>",
        "It is 41[1] high.\n\n1. Measured.\n",
    ),
    "list": (
        "<ol><li>Open it.</li><li>Wait.</li><li value='7'>Close it.</li></ol>",
        "1. Open it.\n2. Wait.\n7. Close it.\n",
    ),
    "list start": (
        "<ol start=5><li>Open it.<li>Wait.</ol>",
        "5. Open it.\n6. Wait.\n",
    ),
    "list reversed": (
        "<ol reversed><li>three<li>two<li>one</ol>",
        "3. three\n2. two\n1. one\n",
    ),
    "list reversed start": (
        "<ol reversed start=10><li>ten<li>nine</ol>",
        "10. ten\n9. nine\n",
    ),
    "list type a": (
        "<ol type=a><li>apple<li>pear</ol>",
        "a. apple\nb. pear\n",
    ),
    "list type I": (
        "<ol type=I start=4><li>apple<li>pear</ol>",
        "IV. apple\nV. pear\n",
    ),
    "list type A many": (
        "<ol type=A start=27><li>apple<li>pear</ol>",
        "AA. apple\nAB. pear\n",
    ),
    "list type i": (
        "<ol type=i><li>apple<li>pear<li>fig<li>nut</ol>",
        "i. apple\nii. pear\niii. fig\niv. nut\n",
    ),
    "list li type": (
        "<ol><li type=a>apple<li>pear</ol>",
        "a. apple\n2. pear\n",
    ),
    "list style css": (
        "<ol style='list-style-type: lower-alpha'><li>apple<li>pear</ol>",
        "a. apple\nb. pear\n",
    ),
    "list none": (
        "<ol style='list-style:none'><li>§1 apple<li>§2 pear</ol>",
        "- §1 apple\n- §2 pear\n",
    ),
    "list nested": (
        "<ol><li>One<ol><li>in</li></ol></li><li>Two</li></ol>",
        "1. One\n   1. in\n2. Two\n",
    ),
    "list nested direct": (
        "<ol><li>One</li><ol><li>in</li></ol><li>Two</li></ol>",
        "1. One\n   1. in\n2. Two\n",
    ),
    "list p": (
        "<ol><li><p>One</p><p>more</p></li><li><p>Two</p></li></ol>",
        "1. One\n\n   more\n2. Two\n",
    ),
    "dl": (
        "<dl><dt>Oak</dt><dd>A tree.</dd><dt>Elm</dt><dt>Ulmus</dt><dd>Other.</dd></dl>",
        "Oak\nA tree.\n\nElm\n\nUlmus\nOther.\n",
    ),
    "details": (
        "<details><summary>More</summary><p>Hidden text of it.</p></details>",
        "More\n\nHidden text of it.\n",
    ),
    "ruby": (
        "<p><ruby>漢<rp>(</rp><rt>かん</rt><rp>)</rp>字<rp>(</rp><rt>じ</rt><rp>)</rp></ruby></p>",
        "漢(かん)字(じ)\n",
    ),
    "ruby no rp": (
        "<p><ruby>漢字<rt>かんじ</rt></ruby>です</p>",
        "漢字(かんじ)です\n",
    ),
    "img alt": (
        "<p>See <img src=a.png alt='A red mill'> here.</p>",
        "See [image: A red mill] here.\n",
    ),
    "img no alt": (
        "<p>See <img src=a.png> here.</p>",
        "See here.\n",
    ),
    "figcaption": (
        "<figure><img src=a.png alt='mill'><figcaption>Figure 2: The mill</figcaption>"
        "</figure><p>x</p>",
        "[image: mill]\n\nFigure 2: The mill\n\nx\n",
    ),
    "br": (
        "<p>One<br>Two<br/>Three</p>",
        "One\nTwo\nThree\n",
    ),
    "hidden": (
        "<p hidden>NO</p><p>yes</p><p style='display:none !important'>NO</p><div "
        "aria-hidden=true>NO</div><p hidden='until-found'>found</p>",
        "yes\n\nfound\n",
    ),
    "template": (
        "<template><p>NO</p></template><p>yes</p>",
        "yes\n",
    ),
    "noscript": (
        "<p>yes</p><noscript>Enable JS</noscript>",
        "yes\n",
    ),
    "input value": (
        "<form><label>Name <input name=n value='Ada Larkin'></label><input type=hidden "
        "value=NO><input type=submit value=Send></form>",
        "Name Ada Larkin\n",
    ),
    "checkbox": (
        "<form><input type=checkbox checked> Agree <input type=checkbox> News <input "
        "type=radio checked> Red <input type=radio> Blue</form>",
        "[x] Agree [ ] News [x] Red [ ] Blue\n",
    ),
    "select": (
        "<form>Country: <select><option>Arl</option><option selected>Vell</option></select></form>",
        "Country: Vell\n",
    ),
    "textarea": (
        "<form><textarea>My remark\nis long</textarea></form>",
        "My remark\nis long\n",
    ),
    "button": (
        "<p>Press <button>Start now</button> to go.</p>",
        "Press Start now to go.\n",
    ),
    "password": (
        "<form><input type=password value=s3cret> x</form>",
        "x\n",
    ),
    "del ins": (
        "<p>Price <del>41</del> <ins>42</ins> crowns.</p>",
        "Price ~~41~~ 42 crowns.\n",
    ),
    "q": (
        "<p>He said <q>no</q>.</p>",
        "He said “no”.\n",
    ),
    "wbr shy": (
        "<p>Donau<wbr>dampf&shy;schiff</p>",
        "Donaudampfschiff\n",
    ),
    "markup chars": (
        "<p>a_b * c # [x](y) `z` 1. \\n <code>a*b</code></p>",
        "a_b * c # [x](y) `z` 1. \\n a*b\n",
    ),
    "unclosed p": (
        "<p>one<p>two<div>three<p>four</div>five",
        "one\n\ntwo\n\nthree\n\nfour\n\nfive\n",
    ),
    "table in p": (
        "<p>intro<table><tr><td>a<td>b<tr><td>c<td>d</table>after",
        "intro\n\na | b\nc | d\n\nafter\n",
    ),
    "foster": (
        "<table><tr><td>a</td></tr>stray words<tr><td>b</td></tr></table>",
        "stray words\n\na\nb\n",
    ),
    "misnested b": (
        "<p><b>one<i>two</b>three</i> four</p>",
        "onetwothree four\n",
    ),
    "unclosed a/b": (
        "<p>one <b>two <p>three <a href=x>four <p>five",
        "one two\n\nthree four\n\nfive\n",
    ),
    "li unclosed": (
        "<ul><li>one<li>two<ul><li>in</ul><li>three</ul>",
        "- one\n- two\n  - in\n- three\n",
    ),
    "svg text": (
        "<p>Chart: <svg><title>Sales by year</title><text x=1>Q1 41%</text><text>Q2 "
        "17%</text></svg></p>",
        "Chart: Sales by year Q1 41% Q2 17%\n",
    ),
    "iframe": (
        "<p>a</p><iframe src=x>fallback</iframe><p>b</p>",
        "a\n\nb\n",
    ),
    "iframe srcdoc": (
        "<p>a</p><iframe srcdoc='<p>Inner words</p>'></iframe>",
        "a\n\nInner words\n",
    ),
    "object fallback": (
        "<object data=a.swf><p>Fallback words</p></object>",
        "Fallback words\n",
    ),
    "video fallback": (
        "<video src=a.mp4>No video</video><p>x</p>",
        "x\n",
    ),
    "several articles": (
        "<article><h2>A</h2><p>aa</p></article><article><h2>B</h2><p>bb</p></article>",
        "## A\n\naa\n\n## B\n\nbb\n",
    ),
    "two articles main long": (
        "<main><article><h2>A</h2><p>aa</p></article><article><h2>B</h2><p>bb</p></article></main>",
        "## A\n\naa\n\n## B\n\nbb\n",
    ),
    "pre": (
        "<pre>a  b\n  c\n\n\n\nd</pre>",
        "a  b\n  c\n\n\n\nd\n",
    ),
    "pre br": (
        "<pre>a<br>b</pre>",
        "a\nb\n",
    ),
    "pre spans": (
        "<pre><code><span class=k>def</span> <span>f</span>():\n    <span>return</span> "
        "1</code></pre>",
        "def f():\n    return 1\n",
    ),
    "white-space css": (
        "<div style='white-space: pre-wrap'>a\nb</div>",
        "a\nb\n",
    ),
    "heading levels": (
        "<h1>A</h1><h2>B</h2><h3>C</h3><h6>D</h6>",
        "# A\n\n## B\n\n### C\n\n###### D\n",
    ),
    "heading with br": (
        "<h1>One<br>Two</h1><p>x</p>",
        "# One Two\n\nx\n",
    ),
    "role heading": (
        "<div role=heading aria-level=2>Lamps</div><p>x</p>",
        "## Lamps\n\nx\n",
    ),
    "blockquote": (
        "<blockquote><p>A saying.</p><p>More.</p></blockquote><p>after</p>",
        "A saying.\n\nMore.\n\nafter\n",
    ),
    "nav toc": (
        "<nav><a>Home</a></nav><p>x</p>",
        "x\n",
    ),
    "aside note": (
        "<section><header><h2>The Weir</h2></header><p>It is old.<a href='#n'>1</a></p>"
        "</section><aside role='doc-footnote' id='n'><p>Paid for by Mara Quill.</p>"
        "</aside>",
        "## The Weir\n\nIt is old.[1]\n\nPaid for by Mara Quill.\n",
    ),
    "form wraps page": (
        "<form><p>The whole page is in a form as ASP.NET does it.</p></form>",
        "The whole page is in a form as ASP.NET does it.\n",
    ),
    "address": (
        "<address>Mill Lane 4<br>Vell</address><p>x</p>",
        "Mill Lane 4\nVell\n\nx\n",
    ),
    "footer with content": (
        "<footer><p>Licence: CC BY 4.0</p></footer><p>x</p>",
        "x\n",
    ),
    "abbr": (
        "<p><abbr title='World Health Organization'>WHO</abbr> says</p>",
        "WHO says\n",
    ),
    "data list": (
        "<datalist><option>NO</option></datalist><p>x</p>",
        "x\n",
    ),
    "meter": (
        "<p>Full: <meter value=0.6>60%</meter> <progress value=3 max=10></progress></p>",
        "Full: 60%\n",
    ),
    "inline block spacing": (
        "<p><span>one</span> <span>two</span><span>three</span></p>",
        "one twothree\n",
    ),
    "text in body": (
        "plain words<div>block</div>tail",
        "plain words\n\nblock\n\ntail\n",
    ),
    "cdata": (
        "<p>a</p><![CDATA[x]]><p>b</p>",
        "a\n\nb\n",
    ),
    "custom elements": (
        "<my-app><my-card><h2>Card</h2><p>Words</p></my-card></my-app>",
        "## Card\n\nWords\n",
    ),
    "shadow template": (
        "<div><template shadowrootmode=open><p>Shadow words</p></template></div>",
        "Shadow words\n",
    ),
    "bidi": (
        "<p>שלום <bdo dir=rtl>abc</bdo></p>",
        "שלום abc\n",
    ),
    "center font": (
        "<center><font size=7>Old</font></center><center>Web</center>",
        "Old\n\nWeb\n",
    ),
    "map area": (
        "<img usemap=#m><map name=m><area alt='North gate' href=x></map><p>x</p>",
        "x\n",
    ),
    "menu dir": (
        "<menu><li>one</li><li>two</li></menu>",
        "- one\n- two\n",
    ),
    "visibility child": (
        "<div style='visibility:hidden'>NO</div><p>yes</p>",
        "yes\n",
    ),
    "dialog": (
        "<dialog open>Shown words</dialog><dialog>NO</dialog>",
        "Shown words\n",
    ),
    "tables header scope": (
        "<table><tr><td></td><th>2020</th><th>2021</th></tr><tr><th>Oak</th><td>1</td>"
        "<td>2</td></tr></table>",
        "| 2020 | 2021\nOak | 1 | 2\n",
    ),
    "div table": (
        "<div style='display:table'><div style='display:table-row'><div "
        "style='display:table-cell'>Oak</div><div style='display:table-cell'>12</div>"
        "</div></div>",
        "Oak | 12\n",
    ),
    "role table": (
        "<div role=table><div role=row><span role=cell>Oak</span><span role=cell>"
        "12</span></div><div role=row><span role=cell>Elm</span><span role=cell>"
        "30</span></div></div>",
        "Oak | 12\nElm | 30\n",
    ),
    "a block": (
        "<a href=x><div>One</div><div>Two</div></a>",
        "One\n\nTwo\n",
    ),
    "backlink": (
        "<h2>Lamps<a class=headerlink href='#l'>¶</a></h2>",
        "## Lamps\n",
    ),
    "tabs": (
        "<p>a\tb\u00a0c</p>",
        "a b c\n",
    ),
    "aria-hidden section sign": (
        "<p>Total: <span aria-hidden=true>€</span>41</p>",
        "Total: 41\n",
    ),
    "sr-only": (
        "<p>41<span class=sr-only> crowns</span></p>",
        "41 crowns\n",
    ),
}
