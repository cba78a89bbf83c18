/* Every file of the operators' page, proxy/admin/web/, once; CMake reads this list too and puts
 * them into the program as they lie there.
 *
 *     X(symbol, name, content type) */
#ifndef PANNIER_PROXY_ADMIN_WEB_TABLE_H
#define PANNIER_PROXY_ADMIN_WEB_TABLE_H

#define WEB_HTML "text/html; charset=utf-8"
#define WEB_CSS  "text/css; charset=utf-8"
#define WEB_JS   "text/javascript; charset=utf-8"

#define WEB_FILES(X)                                                                               \
    X(web_index_html, "index.html", WEB_HTML)                                                      \
    X(web_style_css, "style.css", WEB_CSS)                                                         \
    X(web_page_js, "page.js", WEB_JS)                                                              \
    X(web_api_js, "api.js", WEB_JS)                                                                \
    X(web_parts_js, "parts.js", WEB_JS)                                                            \
    X(web_words_js, "words.js", WEB_JS)                                                            \
    X(web_chart_js, "chart.js", WEB_JS)                                                            \
    X(web_overview_js, "overview.js", WEB_JS)                                                      \
    X(web_repositories_js, "repositories.js", WEB_JS)                                              \
    X(web_repository_js, "repository.js", WEB_JS)                                                  \
    X(web_nodes_js, "nodes.js", WEB_JS)                                                            \
    X(web_warmups_js, "warmups.js", WEB_JS)                                                        \
    X(web_events_js, "events.js", WEB_JS)

#endif
